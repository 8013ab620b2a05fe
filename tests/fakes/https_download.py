"""Downloads one file by HTTPS and writes it to its standard output: a process that a test can kill."""

import sys
import time
from pathlib import Path

from roadloop_agent.link.mqtt import tls_context
from roadloop_agent.update.https import HttpsFetcher, connector
from roadloop_agent.update.resume import FetchContext


def main(port: str, url: str, size_bytes: str, ca: str, certificate: str, key: str, parts: str) -> None:
    """See the module."""
    tls = tls_context(Path(ca), Path(certificate), Path(key))
    fetcher = HttpsFetcher(connector(f"https://127.0.0.1:{port}", tls), time.monotonic, time.sleep)
    with fetcher.context(FetchContext(Path(parts))), fetcher.download_file(url, int(size_bytes)) as file:
        sys.stdout.buffer.write(file.read())


if __name__ == "__main__":
    main(*sys.argv[1:])
