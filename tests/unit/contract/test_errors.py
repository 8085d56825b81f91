"""Every error tells its exit code and whether trying again can help."""

from __future__ import annotations

from collections.abc import Iterator

from face0_worker.contract import errors
from face0_worker.contract.errors import Face0Error


def tree(root: type[Face0Error]) -> Iterator[type[Face0Error]]:
    """Yield the class and everything below it."""
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


def test_exit_codes_are_those_of_the_command_line() -> None:
    codes = {error.__name__: error.exit_code for error in tree(Face0Error) if error.__module__ == errors.__name__}
    assert codes == {
        "Face0Error": 1,
        "WorkFailed": 1,
        "BadInput": 2,
        "FaceRefused": 2,
        "Refused": 3,
        "ConsentRefused": 3,
        "FaceHeld": 3,
        "ServiceDown": 4,
        "BrokerDown": 4,
        "LedgerDown": 4,
        "StorageDown": 4,
        "ModelMissing": 4,
        "LeaseLost": 1,
        "ItemFailed": 1,
        "OutOfMemory": 1,
        "VerificationFailed": 1,
    }


def test_a_service_that_is_down_may_come_back_but_a_missing_model_does_not() -> None:
    assert errors.BrokerDown.retryable
    assert errors.LedgerDown.retryable
    assert not errors.ModelMissing.retryable
    assert not errors.ConsentRefused("sentence", "code").retryable
    assert errors.ConsentRefused("sentence", "code").code == "code"
    assert errors.FaceRefused("sentence", "code").code == "code"
