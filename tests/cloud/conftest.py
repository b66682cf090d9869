import pytest


@pytest.fixture
def moto(monkeypatch):
    """An emulated AWS in this process, with credentials that are none."""
    from moto import mock_aws

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        yield
