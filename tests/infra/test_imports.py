import subprocess
import sys


def test_storage_needs_neither_torch_nor_ray():
    """Tools that only look at bundles start fast, and infra stays below the rest of the house."""
    modules = "infra.stores.storage, infra.shards.shards, infra.receipts, infra.bundles"
    heavy = "{'torch', 'ray', 'webdataset', 'stages', 'generators', 'pipeline'}"
    check = f"import {modules}, sys; found = {heavy} & sys.modules.keys(); assert not found, found"
    subprocess.run([sys.executable, "-c", check], check=True)
