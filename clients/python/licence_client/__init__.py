"""A licence client that fails over between servers, and works offline on what they signed.

    verdict = Client(Settings(servers=["https://api1.example"], ...)).check()
    if not verdict.allow:
        sys.exit(verdict.message)

The same behaviour, file names and texts as clients/ahk/SOLUCAO_COM_REDUNDANCIA.ahk. Texts that
users and vendors read are in Portuguese.
"""

from licence_client.client import Client, Settings, Verdict
from licence_client.tokens import BadTokenError, RootKey

__all__ = ["BadTokenError", "Client", "RootKey", "Settings", "Verdict"]
