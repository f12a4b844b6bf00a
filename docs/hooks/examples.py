"""A docstring's part "Example:" is code, as "Examples:" is; and other parts of ours that griffe does not know."""

import re

import griffe

EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
CALLED = re.compile(r"^( *)Raises \((.*)\):$", re.MULTILINE)
ALIKE = re.compile(r"^( *)Raises:\n( +)As ", re.MULTILINE)  # "as another function", which is no name of an exception


class Examples(griffe.Extension):
    """Read every docstring with parts that griffe knows."""

    def on_instance(self, *, obj, **_):
        if obj.docstring is not None and not obj.is_alias:
            text = EXAMPLE.sub(r"\1Examples:", obj.docstring.value)
            text = CALLED.sub(r"\1Raises:", text)
            obj.docstring.value = ALIKE.sub(r"\1Raises:\n\2NeuroscopeError: as ", text)
