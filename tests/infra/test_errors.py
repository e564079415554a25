from infra import errors


def test_the_tree_separates_what_is_tried_again_from_what_stops_a_run():
    assert issubclass(errors.NotFoundError, errors.StoreError)
    assert not issubclass(errors.TransientError, errors.StoreError)
    for error in (errors.StoreError, errors.TransientError, errors.ShardError, errors.BundleError):
        assert error.__bases__ == (errors.InfraError,)
