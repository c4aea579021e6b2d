"""Receipts and views of the log: what is right is accepted, each manipulation refused."""

from pathlib import Path

import pytest
from support.log import ORIGIN, Signer, consistency, root

from zta import LogError, LogKey, LogView, RolledBackError, SplitViewError, v1

SIGNER = Signer()
KEY = LogKey(SIGNER.vkey)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a+b",
        SIGNER.vkey.replace("zta.local", "zta.locaI"),
        SIGNER.vkey.replace("+", "-", 1),
        SIGNER.vkey[:-4],
    ],
)
def test_a_key_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(LogError):
        LogKey(text)


def test_receipts_prove_their_leaf_and_nothing_else() -> None:
    for size in range(1, 40):
        for index in range(size):
            receipt = SIGNER.receipt(index, size)
            recorded = KEY.verify_receipt(receipt)
            assert (recorded.sequence, recorded.checkpoint.size) == (index, size)
            edited = v1.Receipt(leaf=b"another", proof=receipt.proof)
            moved = receipt.proof.replace(f"index {index}\n", f"index {index + 1}\n", 1)
            for forged in (edited, v1.Receipt(leaf=receipt.leaf, proof=moved)):
                with pytest.raises(LogError):
                    KEY.verify_receipt(forged)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("@v1", "@v2", "not a receipt"),
        ("index 3", "index 03", "no number"),
        ("index 3", "index -3", "no number"),
        ("index 3", "index \u0663", "no number"),
        ("index 3\n", "", "without its index"),
        ("index 3\n", "index 3\nx\n", "no hash"),
        ("\n\n", "\n", "not a receipt|not a signed|no hash"),
        ("\n10\n", "\n11\n", "no signature"),
        (f"\n\n{ORIGIN}", "\n\nzta.locaI/log/test", "another log"),
    ],
)
def test_forged_receipts_are_refused(before: str, after: str, says: str) -> None:
    receipt = SIGNER.receipt(3, 10)
    assert before in receipt.proof
    receipt.proof = receipt.proof.replace(before, after, 1)
    with pytest.raises(LogError, match=says):
        KEY.verify_receipt(receipt)


def test_what_another_key_signed_is_refused() -> None:
    with pytest.raises(LogError, match="no signature"):
        KEY.verify_receipt(Signer().receipt(3, 10))


def test_a_view_takes_what_extends_it_and_names_what_does_not(tmp_path: Path) -> None:
    def note(size: int) -> str:
        return SIGNER.note(size, root(0, size))

    for old in range(1, 16):
        for new in range(old, 20):
            view = LogView(KEY, tmp_path / f"{old}-{new}")
            assert view.last() is None
            view.advance(note(old))
            proof = consistency(old, 0, new)
            with pytest.raises(SplitViewError) as split:
                view.advance(SIGNER.note(new, b"\x07" * 32), proof)
            assert KEY.open(split.value.note).size == new
            if new > old:
                with pytest.raises(SplitViewError):
                    view.advance(note(new))
            kept = view.last()
            assert kept is not None
            assert kept.size == old
            view.advance(note(new), proof)
            kept = view.last()
            assert kept is not None
            assert (kept.size, kept.root) == (new, root(0, new))
            if new > old:
                with pytest.raises(RolledBackError):
                    view.advance(note(old))


def test_a_broken_file_is_no_first_sight(tmp_path: Path) -> None:
    (tmp_path / "seen").write_text("trust me")
    with pytest.raises(LogError):
        LogView(KEY, tmp_path / "seen").advance(SIGNER.note(3, root(0, 3)))
