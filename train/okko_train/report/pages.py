"""What all of okko's written pages share: templates, one style sheet, photos as part of the page, and a strict policy.

A page is one file that needs nothing else. Its security policy allows the very style sheet and script that were written
into it, and pictures that are part of it; no address is ever asked for anything.
"""

from __future__ import annotations

import base64
import hashlib
import io
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

if TYPE_CHECKING:
    from jinja2 import Template
    from numpy.typing import NDArray


def template(name: str) -> Template:
    """Returns one of the templates in this folder; whatever it is given is escaped, and nothing may be missing."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_read(name))


def frame(*styles: str, script: str | None = None) -> dict[str, Markup]:
    """Returns the page's `css`, its `script` if there is one, and the `policy` that allows them alone.

    Args:
        styles: names of style sheets in this folder, joined in order.
        script: name of a script in this folder.
    """
    css = "".join(_read(name) for name in styles)
    sources = [f"default-src 'none'; style-src 'sha256-{_digest(css)}'; img-src data:"]
    parts = {"css": Markup(css)}  # noqa: S704 (our own files)
    if script is not None:
        parts["script"] = Markup(_read(script))  # noqa: S704
        sources.append(f"script-src 'sha256-{_digest(parts['script'])}'")
    policy = "; ".join([*sources, "base-uri 'none'; form-action 'none'"])
    return parts | {"policy": Markup(policy)}  # noqa: S704


def data_uri(pixels: NDArray[np.uint8], longest_side: int) -> str:
    """Returns a photo (height, width, 3) as an address that holds the whole of it, reduced to `longest_side` pixels."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((longest_side, longest_side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=86)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def writable(page: str) -> str:
    """Returns the page without lone surrogates, as which file names that are not UTF-8 arrive; nothing encodes them."""
    return page.encode("utf-8", "replace").decode("utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
