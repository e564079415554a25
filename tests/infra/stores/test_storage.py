import pytest

from infra.errors import StoreError
from infra.stores.storage import FolderStore, S3Options, S3Store, open_store


def test_an_address_tells_the_kind_of_store(tmp_path):
    assert isinstance(open_store(str(tmp_path)), FolderStore)
    assert open_store(f"file://{tmp_path}/a%20b").url == f"{tmp_path}/a b"
    store = open_store("s3://bucket/some/prefix/", S3Options(region="eu-west-1"))
    assert isinstance(store, S3Store)
    assert (store.url, store.bucket, store.options.region) == ("s3://bucket/some/prefix", "bucket", "eu-west-1")
    assert open_store("s3://bucket").url == "s3://bucket"


@pytest.mark.parametrize(
    "url", ["", "s3://", "s3:///a", "s3://buck*/a", "gs://bucket/a", "http://host/a", "file://host/a"]
)
def test_an_address_of_no_store_is_refused(url):
    with pytest.raises(StoreError, match=r"s3://BUCKET|file:///FOLDER"):
        open_store(url)
