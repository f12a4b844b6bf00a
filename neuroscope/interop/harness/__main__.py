"""The command of lm_eval, with the model "neuroscope" in its table: the arguments are lm_eval's own."""

import sys

from neuroscope.errors import NeuroscopeError
from neuroscope.interop.harness.lm import lm_class


def main() -> None:
    """Run lm_eval's command; where a model or a mask cannot be opened, end with the reason on standard error."""
    try:
        lm_class("lm_eval --model neuroscope")
        from lm_eval.__main__ import cli_evaluate  # there, as the line above has checked

        cli_evaluate()
    except NeuroscopeError as error:
        sys.exit(f"neuroscope: {error}")


if __name__ == "__main__":
    main()
