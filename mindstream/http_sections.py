"""The sections of the settings for what roles say over HTTP: their pages, and the API.

Owns what may be set of both; must not know where values come from.
"""

from __future__ import annotations

from pydantic import Field, field_validator

from mindstream.sections import Section


class WebSettings(Section):
    """The HTTP pages of all roles."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 in a container")


class HttpSettings(Section):
    """The HTTP API of the server, on its port."""

    enabled: bool = Field(True, description="off: the server has its pages only, and no /v1")
    token: str = Field(
        "",
        description="callers of /v1 must send it as a bearer token; empty: whoever reaches the "
        "port may call; better given as MINDSTREAM_HTTP__TOKEN",
        repr=False,
    )
    publish: bool = Field(
        True,
        description="what is asked and answered goes to Kafka too, so that feedback joins; a "
        "caller may say no, ?publish=false",
    )
    timeout_s: float = Field(
        5.0, gt=0, le=300, description="longest time to an answer; callers may ask for less"
    )
    max_bytes: int = Field(1_048_576, ge=1024, description="of a request, unpacked, bytes")
    max_rows: int = Field(256, ge=1, le=65_536, description="items of one request, at most")
    client_in_flight: int = Field(
        256, ge=1, description="requests of one address at a time; more are refused"
    )

    @field_validator("token")
    @classmethod
    def _can_be_sent(cls, token: str) -> str:
        if not all("!" <= character <= "~" for character in token):
            raise ValueError("must be printable ASCII without spaces, to fit into a header")
        return token
