"""What a computation says of how far it is, and who hears it."""

import threading

from stages.base.progress import WorkProgress, listening, report_progress


def test_a_report_reaches_every_listener_from_any_thread():
    heard: list[WorkProgress] = []
    with listening(heard.append):
        report_progress(1, 4, "steps", "epoch 1 of 2")
        thread = threading.Thread(target=report_progress, args=(2, 4, "steps"))
        thread.start()
        thread.join()
    report_progress(3, 4, "steps")
    assert heard == [WorkProgress("steps", 1, 4, "epoch 1 of 2"), WorkProgress("steps", 2, 4)]


def test_a_share_is_between_none_and_all():
    assert [WorkProgress("steps", done, 4).share for done in (-1, 0, 1, 4, 9)] == [0, 0, 0.25, 1, 1]
    assert WorkProgress("steps", 0, 0).share == 0
