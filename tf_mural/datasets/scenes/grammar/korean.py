"""Korean: the second thing comes first; `and` is 과 after a consonant and 와 after a vowel."""

from tf_mural.datasets.scenes.grammar.base import Grammar, Link, spaced

ADJECTIVES = {
    None: None, "big": "큰", "small": "작은", "red": "빨간색", "blue": "파란색",
    "green": "초록색", "yellow": "노란색", "orange": "주황색", "purple": "보라색",
    "black": "검은색", "white": "흰색",
}  # fmt: skip
NOUNS = {
    "circle": "원", "square": "정사각형", "triangle": "삼각형", "star": "별", "heart": "하트",
    "cross": "십자가", "ring": "고리", "moon": "달",
    "dog": "개", "cat": "고양이", "bird": "새", "fish": "물고기", "horse": "말", "house": "집",
    "tree": "나무", "book": "책", "table": "탁자", "chair": "의자", "bed": "침대",
    "window": "창문", "door": "문", "key": "열쇠", "cup": "컵", "bottle": "병",
    "spoon": "숟가락", "apple": "사과", "egg": "달걀", "flower": "꽃", "leaf": "나뭇잎",
    "car": "자동차", "boat": "배", "shoe": "신발", "hat": "모자", "shirt": "셔츠", "bag": "가방",
    "ball": "공", "clock": "시계", "lamp": "램프", "box": "상자", "umbrella": "우산",
}  # fmt: skip


def say(thing, case):
    """A thing in a case, as `Grammar.say`."""
    words = spaced(ADJECTIVES[thing.size], ADJECTIVES[thing.colour], NOUNS[thing.noun])
    return words + _and_after(words) if case == "with and" else words


def _and_after(word):
    # Syllables are laid out by their final consonant, 28 to a vowel, the first of them without one.
    has_final_consonant = (ord(word[-1]) - ord("가")) % 28 > 0
    return "과" if has_final_consonant else "와"


GRAMMAR = Grammar(
    say=say,
    links={
        "left of": Link("{second} 왼쪽에 있는 {first}"),
        "right of": Link("{second} 오른쪽에 있는 {first}"),
        "above": Link("{second} 위에 있는 {first}"),
        "below": Link("{second} 아래에 있는 {first}"),
        "next to": Link("{second} 옆에 있는 {first}"),
        "and": Link("{first} {second}", first="with and"),
    },
    caption="{background} 배경에, {phrase}",
    backgrounds={
        "plain": "단색",
        "striped": "줄무늬",
        "dotted": "물방울무늬",
        "checkered": "체크무늬",
    },
)
