"""A second release for a stack, trained where this runs: ``modelport connect STACK --role trainer -- python -m ...``.

Two trainings in the cluster take two cores four minutes. One is seen from beginning to end, with a worker lost on the
way; of the release that people then change over to, only that it is another one matters.
"""

from modelport.connection import Connection
from modelport.contract import find_model
from modelport.release import build
from tests.training.in_process import train_here
from tests.whole.stack import MODEL


def main() -> None:
    """Train from another seed, stage and register; prints the release's digest."""
    connection, folder = Connection.load(), find_model(MODEL)
    result = train_here(folder, folder.path / "sample", ["train.seed=1"], connection)
    print(build(folder, result, connection, result.spec).digest)


if __name__ == "__main__":
    main()
