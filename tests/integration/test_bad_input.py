"""Bad input through the command line: bad samples are quarantined, bad settings refused, both with what to do."""

from pathlib import Path

import pytest

from infra.shards.shards import scan_shard, write_shard
from tests import tiny
from tests.infra.tars import tar
from tests.integration.mill import ASSETS, in_this_process
from tests.servers import S3Server, free_port

NETWORKS = {"generator": ASSETS / "generator.safetensors", "perceptual": ASSETS / "perceptual.safetensors"}
ONCE = {"attempts": 1, "connect_timeout_s": 1, "read_timeout_s": 5}


def configure(folder: Path, **changes) -> Path:
    """Write the configuration of the smallest run that does every step."""
    light = {"epochs": 1, "batch": 4, "network": {"backbone": "light"}}
    return tiny.config(folder, NETWORKS, **{"train_segmenter": light, "compute": {"workers": 1}, **changes})


# --- one run over everything that a shard can have wrong ------------------------------------------------------------


def write_input(folder: Path) -> None:
    """Write a good shard, and one of each kind of bad shard."""
    tiny.write_shards(folder, {"train-good": 4})
    damaged = tiny.samples("train-damaged", 4)
    damaged[1]["png"] = damaged[1]["png"][:-40]
    damaged[2]["png"] = b"\x89PNG\r\n\x1a\n" + b"rot" * 50
    write_shard(folder / "train-damaged.tar", damaged)
    write_shard(folder / "held-cut.tar", tiny.samples("held-cut", 3))
    with (folder / "held-cut.tar").open("rb+") as stream:
        cut = scan_shard(stream, "held-cut.tar", 0).samples[2].members[0]
        stream.truncate(cut.offset + cut.size // 2)
    twice = tiny.samples("twice", 3)
    write_shard(folder / "twice.tar", [*twice, twice[0]])
    imageless = tiny.samples("imageless", 2)
    imageless[1] = {"__key__": "imageless-001", "txt": "a caption"}
    write_shard(folder / "imageless.tar", imageless)
    (folder / "zero.tar").write_bytes(b"")
    (folder / "hollow.tar").write_bytes(tar())


@pytest.fixture(scope="module")
def bad_run(tmp_path_factory, ray_here):
    """The folder of one run over the bad input, exit status, output and errors."""
    folder = tmp_path_factory.mktemp("bad")
    write_input(folder / "shards")
    configure(folder)
    return folder, *in_this_process(folder, "run", "run.yaml")


@pytest.fixture(scope="module")
def outcomes(bad_run):
    """The outcomes of all samples in the last stage: None, or why they are quarantined."""
    receipts = (bad_run[0] / "store/receipts/invert").rglob("*.json")
    return {key: reason for path in receipts for key, reason in tiny.read_json(path)["outcomes"].items()}


@pytest.fixture(scope="module")
def summary(bad_run):
    return tiny.read_json(bad_run[0] / "out/summary.json")


def test_bad_samples_and_shards_fail_no_unit(bad_run):
    _, _, output, errors = bad_run
    assert "Traceback" not in output + errors
    assert "failed" not in output


def test_what_was_not_read_is_said_at_the_end_and_by_the_exit_status(bad_run):
    _, code, output, errors = bad_run
    assert code == 1, output + errors
    assert "not read: 3 of 7 shards, or parts of them (1 empty, 1 truncated, 1 without samples)" in output
    for line in (
        "held-cut.tar: truncated in the data of 'held-cut-002.png'",
        "zero.tar: empty",
        "hollow.tar: it holds no samples",
    ):
        assert f"\n  {line}" in output.partition("not read:")[2]


def test_a_run_with_nothing_to_do_says_so_again_also_when_it_reads_every_shard(bad_run):
    code, output, errors = in_this_process(bad_run[0], "run", "run.yaml", "--set", "input_check=digest")
    assert "nothing to do" in output, output + errors
    assert code == 1
    assert "not read: 3 of 7 shards" in output


def test_every_good_sample_is_recorded(outcomes):
    good = [f"train-good-{i:03d}" for i in range(4)]
    good += ["train-damaged-000", "train-damaged-003", "held-cut-000", "held-cut-001"]
    good += ["twice-000", "twice-001", "twice-002", "imageless-000"]
    assert {key for key, reason in outcomes.items() if reason is None} == set(good)


@pytest.mark.parametrize(
    ("key", "what", "remedy"),
    [
        ("train-damaged-001", "train-damaged-001.png does not decode", "replace it in the shard"),
        ("train-damaged-002", "train-damaged-002.png does not decode", "replace it in the shard"),
        ("held-cut-002", "incomplete: the shard ends after", "upload the shard again"),
        ("twice-000@", "duplicate key 'twice-000': the first is at byte 0", "give it a different key"),
        ("imageless-001", "got txt", "add one, or remove the sample of the shard"),
    ],
)
def test_every_bad_sample_is_quarantined_with_what_is_wrong_and_where(outcomes, key, what, remedy):
    (reason,) = [reason for found, reason in outcomes.items() if found.startswith(key) and reason]
    assert what in reason
    assert remedy in reason


def test_inventory_is_recorded_and_quarantined(outcomes, summary):
    assert summary["samples"] == {"inventory": 17, "recorded": 12, "quarantined": 5}
    assert len(outcomes) == 17


@pytest.mark.parametrize(
    ("shard", "fault", "remedy"),
    [
        ("held-cut.tar", "truncated in the data of 'held-cut-002.png'", "write or upload the shard again"),
        ("zero.tar", "empty: it has no bytes", "write or upload the shard again"),
        ("hollow.tar", "holds no samples", "write it again, or remove it from the input"),
    ],
)
def test_faults_of_shards_are_in_the_summary_with_what_to_do(summary, shard, fault, remedy):
    assert set(summary["shard_faults"]) == {"held-cut.tar", "zero.tar", "hollow.tar"}
    text = " ".join(summary["shard_faults"][shard])
    assert fault in text
    assert remedy in text


def test_no_unit_was_given_up(summary):
    assert summary["failed_units"] == {}


def test_a_run_over_bad_input_is_verified(bad_run):
    code, output, errors = in_this_process(bad_run[0], "verify", "run.yaml")
    assert code == 0, output + errors
    assert "invert: 17 samples = 12 recorded + 5 quarantined" in output
    assert "not read: 3 of 7 shards" in output


def test_the_report_names_every_bad_sample_and_shard(bad_run, outcomes):
    page = (bad_run[0] / "out/report.html").read_text()
    bad = [key for key, reason in outcomes.items() if reason is not None]
    assert len(bad) == 5
    for name in (*bad, "held-cut.tar", "zero.tar", "hollow.tar"):
        assert name in page


# --- what is refused before any work --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    tiny.write_shards(tmp_path / "shards", {"train-a": 1})
    return tmp_path


def refused(folder: Path, *arguments: str, **secrets: str) -> str:
    """Return the one message with which the command line refuses; nothing may be written."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    empty_cache = {"TORCH_HOME": str(folder / "no-cache")}
    code, output, errors = in_this_process(folder, *arguments, **empty_cache, **secrets)
    assert code == 2, output + errors
    assert output == ""
    assert errors.startswith("error: ")
    assert len(errors.strip().splitlines()) == 1, errors
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return errors


def test_an_unknown_key_is_refused_with_the_nearest_known_one(folder):
    configure(folder, refine_map={"threshold": 0.3})
    message = refused(folder, "run", "run.yaml")
    assert "run.yaml: unknown key 'refine_map'; did you mean 'refine_maps'?" in message


def test_a_checkpoint_that_is_missing_is_refused_with_its_place(folder):
    configure(folder, generator={"checkpoint": "nowhere.safetensors"})
    message = refused(folder, "run", "run.yaml")
    assert f"{folder / 'nowhere.safetensors'}" in message
    assert "o such file" in message


def test_a_checkpoint_that_is_none_is_refused_with_what_is_read(folder):
    (folder / "noise.pkl").write_bytes(bytes(i * 37 % 251 for i in range(4096)))
    configure(folder, generator={"checkpoint": "noise.pkl"})
    message = refused(folder, "run", "run.yaml")
    assert f"{folder / 'noise.pkl'}" in message
    assert "safetensors" in message


def test_perceptual_weights_that_are_missing_are_refused_with_the_file_and_its_place(folder):
    configure(folder, perceptual={"backbone": "vgg"})
    message = refused(folder, "run", "run.yaml")
    assert "lpips-vgg needs the ImageNet weights" in message
    assert f"put vgg16-397923af.pth at {folder / 'no-cache/hub/checkpoints/vgg16-397923af.pth'}" in message
    assert "or set perceptual.weights" in message


def test_an_input_that_names_no_shards_is_refused(folder):
    configure(folder, input="shards/*.tgz")
    message = refused(folder, "run", "run.yaml")
    assert (
        f"input {folder / 'shards/*.tgz'}: no shards in {folder / 'shards'}; check the address and the pattern"
        in message
    )


def test_an_input_folder_that_is_not_there_is_refused(folder):
    configure(folder, input="shard/*.tar")
    message = refused(folder, "run", "run.yaml")
    assert f"there is no folder {folder / 'shard'}; correct the address" in message


def test_a_store_that_cannot_be_reached_is_refused_with_its_address(folder):
    endpoint = f"http://127.0.0.1:{free_port()}"
    configure(folder, output="s3://mill/run", storage={"output": {"endpoint_url": endpoint, **ONCE}})
    secrets = S3Server(endpoint, "key", "secret", conditional=True).environment
    message = refused(folder, "run", "run.yaml", **secrets)
    assert f"cannot reach {endpoint} for s3://mill/run" in message
    assert "check that the server runs, that the endpoint address" in message


def test_credentials_that_are_wrong_are_refused_with_the_variables_to_set(folder, rclone):
    configure(folder, output="s3://mill/run", storage={"output": ONCE})
    wrong = S3Server(rclone.endpoint_url, rclone.access_key, "not-the-secret", conditional=False).environment
    message = refused(folder, "run", "run.yaml", **wrong)
    assert f"{rclone.endpoint_url} refused the credentials for s3://mill/run" in message
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in message
    assert "not-the-secret" not in message


def test_a_bucket_that_does_not_exist_is_refused_with_how_to_make_it(folder, ministack):
    configure(folder, input="s3://no-such-bucket/*.tar", storage={"input": ONCE})
    message = refused(folder, "run", "run.yaml", **ministack.environment)
    assert f"there is no bucket 'no-such-bucket' at {ministack.endpoint_url}" in message
    assert "aws s3 mb s3://no-such-bucket" in message


def test_labels_that_the_first_shards_lack_are_missed_before_all_shards_are_read(ray_here, tmp_path):
    tiny.write_shards(tmp_path / "shards", {f"train-{number}": 1 for number in range(9)})
    configure(tmp_path)
    labels = "refine_maps.segmentation={kind: labels, member: labels.png}"
    code, _, errors = in_this_process(tmp_path, "run", "run.yaml", "--set", labels)
    assert code == 2, errors
    assert "no sample of the first 4 shards has its labels, 'labels.png'; samples have: " in errors
    assert len(list(tmp_path.rglob("samples.*parquet"))) == 4
