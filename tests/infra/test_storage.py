import pytest

from infra.errors import NotFoundError, StoreError
from infra.storage import FolderStore, S3Options, S3Store, find, open_store, split_glob


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


@pytest.mark.parametrize(
    ("url", "root", "patterns"),
    [
        ("data/*.tar", "data", ("*.tar",)),
        ("*.tar", ".", ("*.tar",)),
        ("/data/a.tar", "/data", ("a.tar",)),
        ("/a.tar", "/", ("a.tar",)),
        ("a.tar", ".", ("a.tar",)),
        ("data/", "data", ("*.tar",)),
        ("data/**/x-*.tar", "data", ("**/x-*.tar",)),
        ("s3://bkt/p/t-{00..02}.tar", "s3://bkt/p", ("t-00.tar", "t-01.tar", "t-02.tar")),
        ("s3://bkt/{train,val}/*.tar", "s3://bkt", ("train/*.tar", "val/*.tar")),
        ("s3://bkt/a.tar", "s3://bkt", ("a.tar",)),
        ("s3://bkt/", "s3://bkt", ("*.tar",)),
        ("file:///data/a-?.tar", "file:///data", ("a-?.tar",)),
        ("file:///a.tar", "file:///", ("a.tar",)),
    ],
)
def test_an_input_address_splits_into_store_and_patterns(url, root, patterns):
    assert split_glob(url) == (root, patterns)
    open_store(root)


@pytest.mark.parametrize("url", ["", "s3://bucket", "s3://*/a.tar", "s3://b{0..3}/a.tar", "data/{a.tar"])
def test_an_input_address_that_names_no_shards_is_refused(url):
    with pytest.raises(StoreError, match=r"names shards|brace"):
        split_glob(url)


def test_patterns_find_objects_once_and_sorted(store):
    for name in ("train/b.tar", "train/a.tar", "train/a.txt", "val/a.tar", "val/deep/c.tar", "top.tar"):
        store.write(name, b"x")
    assert [entry.name for entry in find(store, ("val/*.tar", "train/*.tar", "train/a*"))] == [
        "train/a.tar",
        "train/a.txt",
        "train/b.tar",
        "val/a.tar",
    ]
    assert [entry.name for entry in find(store, ("**/*.tar",))] == sorted(
        ["train/b.tar", "train/a.tar", "val/a.tar", "val/deep/c.tar", "top.tar"]
    )
    assert [entry.name for entry in find(store, ("val/a.tar", "top.tar"))] == ["top.tar", "val/a.tar"]
    assert find(store, ("nothing-*.tar",)) == []
    with pytest.raises(NotFoundError, match=r"1 of the named shards .*'train/c.tar'"):
        find(store, ("train/a.tar", "train/c.tar"))
