"""The gate's process: ``python -I -m modelport.promotion.gate_process``, job on stdin, findings on stdout, in JSON."""

import sys

from modelport.promotion.isolation import refuse_imports


def main() -> int:
    """Refuse imports, then evaluate; the exit code says whether there are findings."""
    refuse_imports()
    # Imported behind the refusal, so that nothing that comes with it can bring a refused module along.
    from modelport.promotion.evaluation import run

    return run()


if __name__ == "__main__":
    sys.exit(main())
