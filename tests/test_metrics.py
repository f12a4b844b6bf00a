"""Metrics against numbers derived by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenizers import DefaultTokenizer

from neuroscope.evaluation.ranking import rank_labels
from neuroscope.tasks.metrics import METRICS, RANKINGS, Words, accuracy, exact_match, rouge_l

texts = st.text(alphabet="ab cd\n", max_size=20)


@pytest.mark.parametrize(("ranking", "best"), [("sum", 0), ("token", 1), ("character", 2)])
def test_rankings_compare_sums_or_means(ranking, best):
    labels, tokens = ("a", "b b", "c" * 30), (1, 2, 3)  # of 1, 3 and 30 characters
    lengths = torch.tensor([[RANKINGS[ranking](t, n) for t, n in zip(labels, tokens, strict=True)]])
    # sums -3, -4, -9; per token -3, -2, -3; per character -3, -1.33, -0.3
    assert rank_labels(torch.tensor([[-3.0, -4.0, -9.0]]), lengths).tolist() == [best]


def test_ranking_is_by_loglik_over_length():
    loglik = torch.tensor([[-3.0, -4.0, -9.0], [-1.0, -4.0, -9.0]])
    assert rank_labels(loglik, torch.ones(3)).tolist() == [0, 0]
    # per token: -3, -2, -3 and -1, -2, -3
    assert rank_labels(loglik, torch.tensor([1, 2, 3])).tolist() == [1, 0]
    # the second example's first label has 4 tokens: -0.25 wins; its second 8: -0.5
    assert rank_labels(loglik, torch.tensor([[1, 2, 3], [4, 8, 3]])).tolist() == [1, 0]


def test_of_equal_labels_the_first_is_chosen():
    assert rank_labels(torch.tensor([[-2.0, -1.0, -2.0]]), torch.tensor([2, 1, 2])).tolist() == [0]


def test_exact_match_ignores_case_and_whitespace_only():
    assert exact_match("  The\n END ", ["the end"]) == 1
    assert exact_match("the end.", ["the end"]) == 0
    assert exact_match("fin", ["the end", "Fin"]) == 1


def test_accuracy_is_equality():
    assert accuracy("yes", ("yes",)) == 1 and accuracy("Yes", ("yes",)) == 0


def test_rouge_l_by_hand():
    # "police killed the gunman" against "police kill the gunman": LCS police the gunman = 3 of 4 and 3 of 4.
    assert rouge_l("police kill the gunman", ["police killed the gunman"]) == pytest.approx(3 / 4)
    # LCS a b c = 3 of 3 words predicted, 3 of 5 in the reference: F = 2 * 1 * 0.6 / 1.6.
    assert rouge_l("a b c", ["a x b y c"]) == pytest.approx(0.75)
    assert rouge_l("a b c", ["z", "a x b y c", "z a"]) == pytest.approx(0.75)  # the best reference counts
    assert rouge_l("", ["a"]) == 0 and rouge_l("b a", ["a b"]) == pytest.approx(0.5)


@given(prediction=texts, reference=texts)
def test_every_metric_is_a_share_and_full_at_identity(prediction, reference):
    for name, metric in METRICS.items():
        assert 0 <= metric(prediction, [reference]) <= 1
        assert metric(prediction, [reference]) <= metric(prediction, [reference, prediction])
        if prediction.strip():
            assert metric(prediction, [prediction]) == pytest.approx(1), name


@pytest.mark.parametrize(
    "text",
    [
        "今天天气很好",
        "मौसम आज अच्छा है",
        "الطقس جميل اليوم",
        "погода сегодня хорошая",
        "วันนี้อากาศดี",
        "今日はいい天気です",
        "오늘 날씨가 좋다",
    ],
)
def test_a_text_of_any_script_is_like_itself_and_unlike_nothing(text):
    assert METRICS["rouge-l"](text, [text]) == 1
    assert METRICS["rouge-l"](text, ["food"]) == METRICS["rouge-l"]("food", [text]) == 0
    assert 0 < METRICS["rouge-l"](text[: len(text) // 2 + 1], [text]) < 1


def test_words_in_two_scripts_are_all_counted():
    assert METRICS["rouge-l"]("3 яблока", ["3 груши"]) == 0.5  # one of two words
    assert Words().tokenize("ไทย é e\u0301 x2") == ["ไ", "ท", "ย", "é", "é", "x2"]


@given(st.text(alphabet="abcXYZ 019.,;:!?'-_\n", max_size=60))
def test_english_is_cut_as_rouge_score_cuts_it(text):
    assert Words().tokenize(text) == DefaultTokenizer().tokenize(text)
