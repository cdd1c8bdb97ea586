"""Texts of foreign exceptions in sentences."""

from loopwm.errors import after_colon, as_clause


def test_a_text_is_one_line_without_full_stops():
    assert as_clause(ValueError("No screen.\nTry again!")) == "No screen; Try again"
    assert len(as_clause("x" * 400)) == 300
    assert after_colon(KeyError()) == ""


def test_an_exception_whose_text_is_a_fault_itself_has_none():
    class Bad(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    assert as_clause(Bad()) == "" and after_colon(Bad()) == ""
