"""An S3 end point of the tests' own: moto's server on a loopback port."""

import logging
from functools import cached_property
from types import TracebackType
from typing import Self

import boto3
from moto.server import ThreadedMotoServer

# Every S3 library reads these; no shared configuration of the developer's is looked at.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class S3Peer:
    """A running end point."""

    def __enter__(self) -> Self:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop()

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a library finds it."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url}

    @cached_property
    def client(self):
        """boto3's client, to look behind the registry's back."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
            region_name="us-east-1",
        )
