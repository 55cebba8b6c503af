"""The one tree of errors.

Every error that syncd raises on purpose is a `SyncError` with a stable `code`, `retryable` (whether
the same call may succeed later without anybody's help), a `hint` for the operator, and the
`exit_code` of a command that ends with it (1: not all well; 2: wrong usage, configuration or
input). Foreign exceptions are translated where they enter, `from` their cause. Assertions are for
our own bugs, never for input.

    SyncError
    ├── ConfigError            the configuration is wrong, every mistake listed
    ├── SchemaError            a table cannot be enrolled as asked
    ├── DatabaseError          SQLite refused
    │   ├── DatabaseBusy       another writer held the lock for too long
    │   ├── ConstraintError    a constraint of a table refused what had to be written
    │   ├── DatabaseMissing    there is no such file
    │   ├── NotEnrolled        `syncd init` has not been run on this file
    │   └── SchemaChanged      an enrolled table was migrated, and `syncd init` not run since
    ├── BundleError            bytes that are not a bundle we can read
    │   ├── BundleTruncated    the bytes end too early
    │   ├── BundleTooLarge     over a bound, before or after decompression
    │   └── BundleGap          it continues from changes this replica does not have
    ├── SignatureError         a request, response or file is not signed as it must be
    ├── PeerError              a round with a peer failed
    │   ├── PeerUnreachable    no answer
    │   │   └── PeerAsleep     it did not wake up in time
    │   ├── PeerRefused        it answered with a refusal
    │   └── PeerMisbehaved     its answer makes no sense
    ├── NotRestorable          a lost value has no place to go back to
    ├── NotReleasable          what is held cannot be merged by saying so
    ├── NotRepairable          a clock cannot be repaired while a pull has not come to its end
    ├── DaemonRunning          another daemon already serves this database file
    └── AddressRefused         the application cannot be served at its address
"""

from __future__ import annotations

from collections.abc import Sequence


class SyncError(Exception):
    """Something went wrong in syncd."""

    code = "sync_error"
    retryable = False
    exit_code = 1
    hint: str | None = None

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())
        if hint is not None:
            self.hint = hint

    def explained(self) -> str:
        """Return the message with its hint, for a log."""
        return f"{self} ({self.hint})" if self.hint else str(self)


class ConfigError(SyncError):
    """The configuration is wrong."""

    code = "config"
    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class SchemaError(SyncError):
    """A table cannot be enrolled as asked."""

    code = "schema"
    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class DatabaseError(SyncError):
    """SQLite refused."""

    code = "database"


class DatabaseBusy(DatabaseError):
    """Another writer held the database for too long."""

    code = "database_busy"
    retryable = True
    hint = "Look for a program that keeps a write transaction open."


class ConstraintError(DatabaseError):
    """A constraint of a table refused what syncd had to write."""

    code = "constraint"
    hint = "Nothing was merged. Compare the schemas of the two hosts, triggers included."


class DatabaseMissing(DatabaseError):
    """There is no such database file."""

    code = "database_missing"
    exit_code = 2
    hint = "Start the application once, so that it creates its tables, or correct `database`."


class NotEnrolled(DatabaseError):
    """This database has not been enrolled."""

    code = "not_enrolled"
    exit_code = 2
    hint = "Run: syncd init"


class SchemaChanged(DatabaseError):
    """An enrolled table cannot be read as before."""

    code = "schema_changed"
    hint = "If a migration is under way, finish it; then run: syncd init"


class BundleError(SyncError):
    """These bytes are not a bundle this version can read."""

    code = "bundle"
    exit_code = 2


class BundleTruncated(BundleError):
    """The bundle ends too early."""

    code = "bundle_truncated"
    hint = "Copy or export the file again."


class BundleTooLarge(BundleError):
    """A part of the bundle is larger than the bound."""

    code = "bundle_too_large"


class BundleGap(BundleError):
    """The bundle continues from changes this replica does not have."""

    code = "bundle_gap"
    hint = "Export everything (without --since), or import the earlier bundle first."


class SignatureError(SyncError):
    """The signature does not hold."""

    code = "signature"
    exit_code = 2


class PeerError(SyncError):
    """The round with a peer failed."""

    code = "peer"


class PeerUnreachable(PeerError):
    """The peer did not answer."""

    code = "peer_unreachable"
    retryable = True


class PeerAsleep(PeerUnreachable):
    """The peer did not wake up in time."""

    code = "peer_asleep"
    hint = "Free hosts sleep; sync.wake_within says how long to wait for one."


class PeerRefused(PeerError):
    """The peer refused the request."""

    code = "peer_refused"
    hint = "The peer's log says why; often the keys or the clocks differ."


class PeerLacks(PeerRefused):
    """The peer has not, or has no more, what a pushed bundle continues from."""

    code = "peer_lacks"
    hint = "The next round asks it what it has and goes on from there."


class PeerMisbehaved(PeerError):
    """The peer's answer makes no sense."""

    code = "peer_misbehaved"


class NotRestorable(SyncError):
    """The lost value has no place to go back to."""

    code = "not_restorable"
    exit_code = 2


class NotReleasable(SyncError):
    """What is held cannot be merged by saying so."""

    code = "not_releasable"
    exit_code = 2


class NotRepairable(SyncError):
    """The clock cannot be repaired yet."""

    code = "not_repairable"
    retryable = True


class DaemonRunning(SyncError):
    """Another daemon already serves this database file."""

    code = "daemon_running"


class AddressRefused(SyncError):
    """The application cannot be served at its address."""

    code = "address_refused"
    hint = "End what listens there, or correct `serve.host` (SERVE_HOST) and `serve.port` (PORT)."
