"""Ukrainian: like Czech, but the adjective for blue (синій) has soft endings, unlike білий."""

from tf_mural.datasets.scenes.grammar.base import Grammar, LinkTemplate, join_words

ADJECTIVES = {
    "big": "велик", "small": "маленьк", "red": "червон", "blue": "син", "green": "зелен",
    "yellow": "жовт", "orange": "помаранчев", "purple": "фіолетов", "black": "чорн",
    "white": "біл",
}  # fmt: skip
SOFT = ("blue",)
CASES = ("base", "genitive", "instrumental")
HARD_ENDINGS = {
    "m": ("ий", "ого", "им"),
    "f": ("а", "ої", "ою"),
    "n": ("е", "ого", "им"),
    "p": ("і", "их", "ими"),
}
SOFT_ENDINGS = {
    "m": ("ій", "ього", "ім"),
    "f": ("я", "ьої", "ьою"),
    "n": ("є", "ього", "ім"),
    "p": ("і", "іх", "іми"),
}
# Nouns by gender ("p": plural only), each as nominative, genitive and instrumental.
NOUNS = {
    "m": {
        "circle": ("круг", "круга", "кругом"),
        "square": ("квадрат", "квадрата", "квадратом"),
        "triangle": ("трикутник", "трикутника", "трикутником"),
        "cross": ("хрест", "хреста", "хрестом"),
        "moon": ("місяць", "місяця", "місяцем"),
        "dog": ("собака", "собаки", "собакою"),
        "cat": ("кіт", "кота", "котом"),
        "bird": ("птах", "птаха", "птахом"),
        "horse": ("кінь", "коня", "конем"),
        "house": ("будинок", "будинку", "будинком"),
        "table": ("стіл", "стола", "столом"),
        "chair": ("стілець", "стільця", "стільцем"),
        "key": ("ключ", "ключа", "ключем"),
        "leaf": ("листок", "листка", "листком"),
        "boat": ("човен", "човна", "човном"),
        "shoe": ("черевик", "черевика", "черевиком"),
        "hat": ("капелюх", "капелюха", "капелюхом"),
        "ball": ("м'яч", "м'яча", "м'ячем"),
        "clock": ("годинник", "годинника", "годинником"),
    },
    "f": {
        "star": ("зірка", "зірки", "зіркою"),
        "fish": ("риба", "риби", "рибою"),
        "book": ("книга", "книги", "книгою"),
        "cup": ("чашка", "чашки", "чашкою"),
        "bottle": ("пляшка", "пляшки", "пляшкою"),
        "spoon": ("ложка", "ложки", "ложкою"),
        "flower": ("квітка", "квітки", "квіткою"),
        "car": ("машина", "машини", "машиною"),
        "shirt": ("сорочка", "сорочки", "сорочкою"),
        "bag": ("сумка", "сумки", "сумкою"),
        "lamp": ("лампа", "лампи", "лампою"),
        "box": ("коробка", "коробки", "коробкою"),
        "umbrella": ("парасолька", "парасольки", "парасолькою"),
    },
    "n": {
        "heart": ("серце", "серця", "серцем"),
        "ring": ("кільце", "кільця", "кільцем"),
        "tree": ("дерево", "дерева", "деревом"),
        "bed": ("ліжко", "ліжка", "ліжком"),
        "window": ("вікно", "вікна", "вікном"),
        "apple": ("яблуко", "яблука", "яблуком"),
        "egg": ("яйце", "яйця", "яйцем"),
    },
    "p": {
        "door": ("двері", "дверей", "дверима"),
    },
}
GENDERS = {noun: gender for gender, nouns in NOUNS.items() for noun in nouns}


def noun_phrase(obj, case):
    """Returns the noun phrase of an object in a case; see `Grammar.noun_phrase`."""
    gender, column = GENDERS[obj.noun], CASES.index(case)
    adjectives = (
        ADJECTIVES[word] + (SOFT_ENDINGS if word in SOFT else HARD_ENDINGS)[gender][column]
        for word in (obj.size, obj.color)
        if word
    )
    return join_words(*adjectives, NOUNS[gender][obj.noun][column])


GRAMMAR = Grammar(
    noun_phrase=noun_phrase,
    link_templates={
        "left of": LinkTemplate("{first} ліворуч від {second}", second="genitive"),
        "right of": LinkTemplate("{first} праворуч від {second}", second="genitive"),
        "above": LinkTemplate("{first} над {second}", second="instrumental"),
        "below": LinkTemplate("{first} під {second}", second="instrumental"),
        "next to": LinkTemplate("{first} біля {second}", second="genitive"),
        # Among the words for `and`, та fits after vowels and after consonants.
        "and": LinkTemplate("{first} та {second}"),
    },
    caption_template="{phrase} на {background}",
    backgrounds={
        "plain": "однотонному тлі",
        "striped": "смугастому тлі",
        "dotted": "тлі в горошок",
        "checkered": "картатому тлі",
    },
)
