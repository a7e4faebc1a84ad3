import itertools
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.retrieval import oracle

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval import HammingRetrieval, evaluate_codes, pack_codes

BITS = 20
KS = (30, None)


def case():
    return oracle.random_case(31, 400, BITS, 70, seed=3, share=0.05)


def feed(metric, rows: dict[str, np.ndarray], batch: int = 17) -> None:
    codes_q, codes_d, labels_q, labels_d = (torch.from_numpy(array) for array in case())
    for kind, codes, labels in (("database", codes_d, labels_d), ("query", codes_q, labels_q)):
        for chunk in torch.from_numpy(rows[kind]).split(batch):
            metric.update(codes[chunk], labels[chunk], chunk, kind)


def everything() -> dict[str, np.ndarray]:
    return {"query": np.arange(31), "database": np.arange(400)}


def single():
    metric = HammingRetrieval(BITS, KS)
    feed(metric, everything())
    return {name: value.item() for name, value in metric.compute().items()}


def test_batches_give_the_value_of_evaluate_codes():
    report = evaluate_codes(*case(), BITS, ks=KS)
    assert single() == {"map@30": report.map[30], "map@all": report.map[None]}


def test_many_batches_are_kept_in_few_parts_and_in_order():
    metric, count = HammingRetrieval(bits=8), 3000
    for row in range(count):
        code = np.array([[row % 256]], dtype=np.uint8)
        one = torch.tensor([[row % 3 == 0]])
        metric.update(torch.from_numpy(code), one, torch.tensor([row]), kind="database")
    for parts in (metric.database_codes, metric.database_labels, metric.database_ids):
        assert len(parts) <= 1 + np.log2(count)
    rows = metric.gather()["database"]
    assert rows.ids.tolist() == list(range(count))
    assert rows.codes[:, 0].tolist() == [row % 256 for row in range(count)]
    assert rows.labels[:, 0].tolist() == [row % 3 == 0 for row in range(count)]


def test_order_and_repetition_of_rows_do_not_matter():
    rng = np.random.default_rng(0)
    metric = HammingRetrieval(BITS, KS, ties="id")
    feed(
        metric,
        {
            name: np.concatenate([rng.permutation(rows), rows[:9]])
            for name, rows in everything().items()
        },
    )
    metric.compute()
    assert metric.report is not None
    assert len(metric.report.items) == 31
    assert (
        metric.report.map == evaluate_codes(*case(), BITS, ks=KS, ties="id").map
    )  # row order is that of ids


def test_real_codes_and_reset():
    metric = HammingRetrieval(3, (None,))
    for _ in range(2):
        u, labels = torch.tensor([[0.5, -0.5, 0.0], [-1.0, 1, 1]]), torch.eye(2, dtype=torch.bool)
        metric.update(u.requires_grad_(), labels, torch.arange(2), "query")
        metric.update(u > 0, labels, torch.arange(2), "database")
        assert metric.compute()["map@all"] == 1.0
        metric.reset()
    with (
        pytest.raises(InputError, match="no query batch"),
        pytest.warns(UserWarning, match="before the"),
    ):
        metric.compute()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "train"}, "query"),
        ({"index": torch.zeros(3)}, "whole numbers"),
        ({"index": torch.zeros(4, dtype=torch.long)}, "3 whole numbers"),
        ({"labels": torch.zeros(3, 5, dtype=torch.bool)}, "an earlier batch 2"),
        ({"codes": torch.zeros(3, 7)}, "past bit|check bits|8 bits"),
    ],
)
def test_misuse_is_named(change, message):
    good = {
        "codes": torch.zeros(3, 17),
        "labels": torch.zeros(3, 2, dtype=torch.bool),
        "index": torch.arange(3),
    }
    metric = HammingRetrieval(17)
    metric.update(**good, kind="query")
    with pytest.raises(InputError, match=message):
        metric.update(**(good | {"kind": "query"} | change))


def halves(first_query, second_query, first_database, second_database):
    return [
        {
            "query": np.array(first_query, dtype=int),
            "database": np.array(first_database, dtype=int),
        },
        {
            "query": np.array(second_query, dtype=int),
            "database": np.array(second_database, dtype=int),
        },
    ]


SHARDS = {
    "a padding sampler repeats rows": halves(
        [*range(0, 31, 2)], [*range(1, 31, 2), 0], range(0, 400, 2), range(1, 400, 2)
    ),
    "uneven": halves(range(3), range(3, 31), range(333), range(333, 400)),
    "all queries here and the database there": halves(range(31), [], [], range(400)),
}


def worker(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    for number, shards in enumerate(SHARDS.values()):
        metric = HammingRetrieval(BITS, KS)
        feed(metric, shards[rank])
        np.save(
            Path(folder) / f"{number}-{rank}.npy",
            [value.item() for value in metric.compute().values()],
        )
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_value_of_one_to_the_last_bit(tmp_path: Path, python: Path) -> None:
    code = "import sys; from tests.unit.retrieval.test_torchmetric import worker; "
    code += "worker(int(sys.argv[1]), sys.argv[2])"
    commands = [[python, "-c", code, str(rank), tmp_path] for rank in range(2)]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait(120) for process in processes] == [0, 0]
    for (number, name), rank in itertools.product(enumerate(SHARDS), range(2)):
        assert np.load(tmp_path / f"{number}-{rank}.npy").tolist() == list(single().values()), name


def test_codes_without_labels_are_gathered_and_not_scored() -> None:
    metric = HammingRetrieval(bits=12)
    codes = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    metric.update(
        codes[:3], torch.zeros(3, 0, dtype=torch.bool), torch.tensor([4, 0, 2]), "database"
    )
    metric.update(codes[3:], torch.zeros(2, 0, dtype=torch.bool), torch.tensor([1, 3]), "database")
    rows = metric.gather()["database"]
    assert rows.ids.tolist() == [0, 1, 2, 3, 4]
    assert rows.labels.shape == (5, 0)
    np.testing.assert_array_equal(rows.codes, pack_codes(codes[[1, 3, 2, 4, 0]]))
    with pytest.raises(InputError, match="no query batch was seen"):
        metric.compute()
    metric.update(codes, torch.zeros(5, 0, dtype=torch.bool), torch.arange(5), "query")
    with pytest.raises(InputError, match="query_labels has shape"):
        metric.compute()
