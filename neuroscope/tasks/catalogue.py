"""The papers' tasks on the Hugging Face Hub, as plain data: each entry is the arguments of `Task.from_hub`.

`GROUPS` says which experiment uses which.

- "continual": the eight tasks of LX24's continual learning, in the orders `CL_ORDERS`. "amazon" is five-star reviews;
  the label words are those of the O-LoRA benchmark that LX24 took its data from.
- "lx24-cls" and "lx24-gen": six classification and six generation tasks. LX24's families are known (sentiment,
  paraphrase, inference; summary, question generation, data-to-text; two data sets each), but its data were not released
  and its exact choice of data sets could not be verified. These are public data sets of the same families: numbers on
  them are not to be compared with those of its tables.

Splits named test are always labelled ones: GLUE and CommonGen hide the answers of theirs, so validation is used.
`refs/convert/parquet` is the Hub's own conversion of data sets that otherwise need a loading script.
"""

from __future__ import annotations

from typing import Any

GLUE = {"path": "nyu-mll/glue", "splits": {"train": "train", "test": "validation"}}
PAIR = "sentence 1: {sentence1}\nsentence 2: {sentence2}"
TITLED = "Title: {title}\nText: {content}"
STARS = ("very negative", "negative", "neutral", "positive", "very positive")
TOPICS = (
    "Society & Culture", "Science & Mathematics", "Health", "Education & Reference", "Computers & Internet", "Sports",
    "Business & Finance", "Entertainment & Music", "Family & Relationships", "Politics & Government",
)  # fmt: skip
KINDS = (
    "Company", "Educational Institution", "Artist", "Athlete", "Office Holder", "Mean of Transportation", "Building",
    "Natural Place", "Village", "Animal", "Plant", "Album", "Film", "Written Work",
)  # fmt: skip

CATALOGUE: dict[str, dict[str, Any]] = {
    "agnews": {
        "path": "fancyzhx/ag_news",
        "text": "{text}",
        "labels": ("World", "Sports", "Business", "Science or Technology"),
        "prompt": "{text}\nWhat is the topic of this news?\nAnswer:",
        "family": "topic",
    },
    "amazon": {
        "path": "SetFit/amazon_reviews_multi_en",
        "text": "{text}",
        "labels": STARS,
        "prompt": "{text}\nWhat is the sentiment of this review?\nAnswer:",
        "family": "sentiment",
    },
    "dbpedia": {
        "path": "fancyzhx/dbpedia_14",
        "text": TITLED,
        "labels": KINDS,
        "prompt": "{text}\nWhat is this text about?\nAnswer:",
        "family": "topic",
    },
    "yahoo": {
        "path": "community-datasets/yahoo_answers_topics",
        "text": "Question: {question_title} {question_content}\nAnswer: {best_answer}",
        "label": "topic",
        "labels": TOPICS,
        "prompt": "{text}\nWhat is the topic of this question?\nTopic:",
        "family": "topic",
    },
    "mnli": {
        "path": "nyu-mll/glue",
        "config": "mnli",
        "splits": {"train": "train", "test": "validation_matched"},
        "text": "sentence 1: {premise}\nsentence 2: {hypothesis}",
        "labels": ("entailment", "neutral", "contradiction"),
        "prompt": "{text}\nWhat is the relation of sentence 1 to sentence 2?\nAnswer:",
        "family": "inference",
    },
    "qqp": {
        **GLUE,
        "config": "qqp",
        "text": "sentence 1: {question1}\nsentence 2: {question2}",
        "labels": ("no", "yes"),
        "prompt": "{text}\nDo both questions ask the same?\nAnswer:",
        "family": "paraphrase",
    },
    "rte": {
        **GLUE,
        "config": "rte",
        "text": PAIR,
        "labels": ("entailment", "contradiction"),
        "prompt": "{text}\nWhat is the relation of sentence 1 to sentence 2?\nAnswer:",
        "family": "inference",
    },
    "sst2": {
        **GLUE,
        "config": "sst2",
        "text": "{sentence}",
        "labels": ("Bad", "Good"),
        "prompt": "{text}\nWhat is the sentiment of this text?\nAnswer:",
        "family": "sentiment",
    },
    "amazon-polarity": {
        "path": "fancyzhx/amazon_polarity",
        "text": TITLED,
        "labels": ("Bad", "Good"),
        "prompt": "{text}\nWhat is the sentiment of this review?\nAnswer:",
        "family": "sentiment",
    },
    "paws": {
        "path": "google-research-datasets/paws",
        "config": "labeled_final",
        "text": PAIR,
        "labels": ("no", "yes"),
        "prompt": "{text}\nDo both sentences say the same?\nAnswer:",
        "family": "paraphrase",
    },
    "snli": {
        "path": "stanfordnlp/snli",
        "text": "sentence 1: {premise}\nsentence 2: {hypothesis}",
        "labels": ("entailment", "neutral", "contradiction"),
        "prompt": "{text}\nWhat is the relation of sentence 1 to sentence 2?\nAnswer:",
        "family": "inference",
    },
    "xsum": {
        "path": "EdinburghNLP/xsum",
        "revision": "refs/convert/parquet",
        "text": "{document}",
        "target": "{summary}",
        "prompt": "{text}\nSummarize this article in one sentence.\nSummary:",
        "family": "summary",
        "max_new_tokens": 64,
    },
    "cnn-dailymail": {
        "path": "abisee/cnn_dailymail",
        "config": "3.0.0",
        "text": "{article}",
        "target": "{highlights}",
        "prompt": "{text}\nSummarize this article.\nSummary:",
        "family": "summary",
        "max_new_tokens": 128,
    },
    "squad-question": {
        "path": "rajpurkar/squad",
        "splits": {"train": "train", "test": "validation"},
        "text": "{context}\nAnswer: {answers[text][0]}",
        "target": "{question}",
        "prompt": "{text}\nWrite a question about this text that has this answer.\nQuestion:",
        "family": "question",
    },
    "sciq-question": {
        "path": "allenai/sciq",
        "text": "{support}\nAnswer: {correct_answer}",
        "target": "{question}",
        "prompt": "{text}\nWrite a question about this text that has this answer.\nQuestion:",
        "family": "question",
    },
    "e2e": {
        "path": "tuetschek/e2e_nlg",
        "revision": "refs/convert/parquet",
        "text": "{meaning_representation}",
        "target": "{human_reference}",
        "prompt": "{text}\nDescribe this in words.\nDescription:",
        "merge": True,
        "family": "data-to-text",
        "max_new_tokens": 64,
    },
    "common-gen": {
        "path": "allenai/common_gen",
        "splits": {"train": "train", "test": "validation"},
        "text": "{concepts}",
        "target": "{target}",
        "prompt": "{text}\nWrite a sentence with all of these words.\nSentence:",
        "merge": True,
        "family": "data-to-text",
    },
}

GROUPS: dict[str, tuple[str, ...]] = {
    "continual": ("agnews", "amazon", "dbpedia", "yahoo", "mnli", "qqp", "rte", "sst2"),
    "lx24-cls": ("sst2", "amazon-polarity", "qqp", "paws", "mnli", "snli"),
    "lx24-gen": ("xsum", "cnn-dailymail", "squad-question", "sciq-question", "e2e", "common-gen"),
}

# LX24's continual learning orders (1 to 3: four tasks; 4 to 6: eight).
CL_ORDERS: dict[int, tuple[str, ...]] = {
    1: ("dbpedia", "amazon", "yahoo", "agnews"),
    2: ("dbpedia", "amazon", "agnews", "yahoo"),
    3: ("yahoo", "amazon", "agnews", "dbpedia"),
    4: ("mnli", "qqp", "rte", "amazon", "sst2", "dbpedia", "agnews", "yahoo"),
    5: ("amazon", "agnews", "yahoo", "qqp", "rte", "mnli", "dbpedia", "sst2"),
    6: ("agnews", "yahoo", "sst2", "rte", "qqp", "mnli", "dbpedia", "amazon"),
}
