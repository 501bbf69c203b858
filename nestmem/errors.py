"""The exceptions of nestmem, one small tree.

    NestmemError
    ├── InputError (also ValueError)     a value from the caller cannot be used
    ├── LedgerError                      the SQLite file
    │   ├── LedgerLocked                 another process holds the write lock
    │   ├── LedgerReadOnly               the file or its folder cannot be written
    │   ├── LedgerCorrupt                the file is not a healthy SQLite database
    │   ├── LedgerTooNew                 written by a newer nestmem
    │   └── SleepBusy                    another sleeper holds this user's sleep
    ├── ModelError                       the language model
    │   ├── ModelNotFound                no model at that name or folder
    │   ├── UnsupportedArchitecture      no known feed-forward layers to attach banks to
    │   └── BaseChanged                  stored weights belong to another base model or rule
    ├── EmbedderError                    the embedder
    │   └── EmbedderChanged              stored vectors have another model or dimension
    ├── LLMError                         the OpenAI-compatible endpoint
    └── MissingExtra (also ImportError)  an optional dependency is not installed

Every message says what was given, what was expected, and the likely fix.
"""


class NestmemError(Exception):
    """Any error that nestmem raises on purpose. The message is one the user can act on."""


class InputError(NestmemError, ValueError):
    """A value given by the caller cannot be used. Nothing was stored or changed."""


class LedgerError(NestmemError):
    """The ledger, the SQLite file with the memory, could not be used."""


class LedgerLocked(LedgerError):
    """Another process held the write lock for longer than the busy timeout. Nothing was written."""


class LedgerReadOnly(LedgerError):
    """A write was asked of a ledger that can only be read."""


class LedgerCorrupt(LedgerError):
    """The file is not a database, or fails SQLite's own checks. It is left as it was."""


class LedgerTooNew(LedgerError):
    """The file's schema was written by a newer nestmem. It is left as it was."""


class SleepBusy(LedgerError):
    """Another sleeper holds the user's sleep, took it over, or a forget ended it. Nothing was written."""


class ModelError(NestmemError):
    """The language model could not be used."""


class ModelNotFound(ModelError):
    """No model was found under the given name or in the given folder."""


class UnsupportedArchitecture(ModelError):
    """The model has no feed-forward layers of a known shape to attach fast weights to."""


class BaseChanged(ModelError):
    """Stored weight updates were made for another base model, projection or write rule."""


class EmbedderError(NestmemError):
    """The embedder could not be used."""


class EmbedderChanged(EmbedderError):
    """Stored vectors were made by another embedder or have another dimension."""


class LLMError(NestmemError):
    """The OpenAI-compatible endpoint did not answer, or answered something unusable."""


class MissingExtra(NestmemError, ImportError):
    """An optional dependency is not installed. The message holds the command that installs it."""

    def __init__(self, extra: str, package: str) -> None:
        """`extra` is the name in pyproject.toml, `package` the module that could not be imported."""
        super().__init__(
            f"the package {package!r} is needed here and is not installed; "
            f"install it with: pip install 'nestmem[{extra}]'"
        )
        self.extra = extra
        self.package = package
