"""The Face0Error tree: every error a user can meet, each retryable or final, each with its exit code."""

from __future__ import annotations


class Face0Error(Exception):
    """Something a person can act on: the message says what was wrong, where, and what to do next.

    `retryable`: the same call may succeed later. `exit_code`: what a command ends with.
    A message never carries a name, a photo or an embedding (promise P7).
    """

    retryable = False
    exit_code = 1


class WorkFailed(Face0Error):
    """The work was accepted but some of it failed (exit 1)."""


class BadInput(Face0Error):
    """Wrong usage or input: a file, a list, an option. Nothing was enqueued (exit 2)."""

    exit_code = 2


class FaceRefused(BadInput):
    """The photo can't be used (exit 2). `code` is the machine-readable reason: see docs/photos.md."""

    def __init__(self, sentence: str, code: str) -> None:
        super().__init__(sentence)
        self.code = code


class Refused(Face0Error):
    """Policy says no (exit 3)."""

    exit_code = 3


class ConsentRefused(Refused):
    """The consent does not allow this use now. `code` is the machine-readable reason."""

    def __init__(self, sentence: str, code: str) -> None:
        super().__init__(sentence)
        self.code = code


class FaceHeld(Refused):
    """The photo is held for a human, or a human refused it. `held_id` names it: `face0 consent held show`."""

    def __init__(self, sentence: str, code: str, held_id: str) -> None:
        super().__init__(sentence)
        self.code, self.held_id = code, held_id


class ServiceDown(Face0Error):
    """A broker, ledger, store or worker can't be reached (exit 4); try again when it is back."""

    retryable = True
    exit_code = 4


class BrokerDown(ServiceDown):
    """Redis or Valkey does not answer."""


class LedgerDown(ServiceDown):
    """PostgreSQL does not answer."""


class StorageDown(ServiceDown):
    """The object store does not answer, or refused to write."""


class ModelMissing(ServiceDown):
    """A model folder, face pack or weight is not where it was expected, or its digest differs."""

    retryable = False


class LeaseLost(Face0Error):
    """The attempt was given to another worker; nothing of it may be committed (promise P4)."""


class ItemFailed(Face0Error):
    """One item can't be rendered; its neighbours are not touched."""


class OutOfMemory(ItemFailed):
    """The device had no memory for this batch; a smaller one may fit."""

    retryable = True


class VerificationFailed(Face0Error):
    """A picture or its receipt is not what was committed (exit 1)."""
