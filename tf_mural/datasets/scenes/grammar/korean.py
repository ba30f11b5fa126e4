"""Korean: the second object comes first; `and` is 과 after a consonant and 와 after a vowel."""

from tf_mural.datasets.scenes.grammar.base import Grammar, LinkTemplate, join_words

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


def noun_phrase(obj, case):
    """Returns the noun phrase of an object in a case; see `Grammar.noun_phrase`."""
    words = join_words(ADJECTIVES[obj.size], ADJECTIVES[obj.color], NOUNS[obj.noun])
    return words + _and_after(words) if case == "with and" else words


def _and_after(word):
    # Unicode has groups of 28 syllables: the first has no final consonant, the others have one.
    has_final_consonant = (ord(word[-1]) - ord("가")) % 28 > 0
    return "과" if has_final_consonant else "와"


GRAMMAR = Grammar(
    noun_phrase=noun_phrase,
    link_templates={
        "left of": LinkTemplate("{second} 왼쪽에 있는 {first}"),
        "right of": LinkTemplate("{second} 오른쪽에 있는 {first}"),
        "above": LinkTemplate("{second} 위에 있는 {first}"),
        "below": LinkTemplate("{second} 아래에 있는 {first}"),
        "next to": LinkTemplate("{second} 옆에 있는 {first}"),
        "and": LinkTemplate("{first} {second}", first="with and"),
    },
    caption_template="{background} 배경에, {phrase}",
    backgrounds={
        "plain": "단색",
        "striped": "줄무늬",
        "dotted": "물방울무늬",
        "checkered": "체크무늬",
    },
)
