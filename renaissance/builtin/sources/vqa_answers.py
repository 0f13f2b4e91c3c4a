"""VQA answers: the official normalization, the vocabulary of classes, and soft scores.

The rules are those of the official evaluation (Antol et al., 2015, and its published code).
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

# Number of questions whose most frequent answer an answer must be to become a class.
MIN_COUNT = 9
# By the number of annotators who gave the answer; the last is for any larger number.
SCORES = (0.0, 0.3, 0.6, 0.9, 1.0)

NUMBERS = {
    word: str(digit)
    for digit, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
ARTICLES = frozenset(("a", "an", "the"))
CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've
    hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've
    mightn't mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't
    she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
    someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've
    we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've
    who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
    y'all'd've you'd you'd've you'll you're you've
"""
# From a contraction without one of its apostrophes. The official list has one entry reversed.
SPELLINGS = {
    word[:i] + word[i + 1 :]: word
    for word in CONTRACTIONS.split()
    for i, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# The official expression is meant to keep a period after a digit, too, but does not.
PERIOD = re.compile(r"\.(?!\d)")
COMMA_IN_NUMBER = re.compile(r"\d,\d")


def normalize_answer(answer: str) -> str:
    """Return an answer in the form that the official evaluation compares.

    It is in lower case, without articles, with numbers up to ten as digits, without punctuation
    except decimal points, colons and apostrophes, and with the apostrophes of contractions.
    """
    return _digits_and_articles(_without_punctuation(_on_one_line(answer)))


def _on_one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(answer: str) -> str:
    result = answer
    for mark in PUNCTUATION:
        # Next to a space, or in an answer with a number such as 1,000, a mark is removed; between
        # two words, it becomes a space.
        is_next_to_space = f"{mark} " in answer or f" {mark}" in answer
        is_removed = is_next_to_space or COMMA_IN_NUMBER.search(answer) is not None
        result = result.replace(mark, "" if is_removed else " ")
    return PERIOD.sub("", result)


def _digits_and_articles(answer: str) -> str:
    words = (NUMBERS.get(word, word) for word in answer.lower().split())
    return " ".join(SPELLINGS.get(word, word) for word in words if word not in ARTICLES)


def answer_vocabulary(majority_answers: Iterable[str], min_count: int = MIN_COUNT) -> list[str]:
    """Return the answers that become classes, in order of first occurrence.

    Args:
        majority_answers: The most frequent answer of each question of train and val.
        min_count: How often an answer must occur among them.
    """
    counts = Counter(map(normalize_answer, majority_answers))
    return [answer for answer, count in counts.items() if count >= min_count]


def soft_scores(answers: Sequence[str], classes: dict[str, int]) -> list[tuple[int, float]]:
    """Return (label, score) of each class among the annotators' answers.

    The official evaluation normalizes neither the annotators' answers nor the prediction if all
    annotators wrote the same. If that is not in normal form ("two", "t-shirt"), only a class that
    is spelled like it scores.

    Args:
        answers: One per annotator.
        classes: Label of each class.
    """
    written = [_on_one_line(answer) for answer in answers]
    counts = Counter(written if len(set(written)) == 1 else map(normalize_answer, written))
    return [
        (classes[answer], SCORES[min(count, len(SCORES) - 1)])
        for answer, count in counts.items()
        if answer in classes
    ]
