"""Turkish: the second thing comes first, in the genitive: of a square, at its left, a circle."""

from tf_mural.datasets.scenes.grammar.base import Grammar, Link, spaced

ADJECTIVES = {
    None: None, "big": "büyük", "small": "küçük", "red": "kırmızı", "blue": "mavi",
    "green": "yeşil", "yellow": "sarı", "orange": "turuncu", "purple": "mor", "black": "siyah",
    "white": "beyaz",
}  # fmt: skip
# Base and genitive: vowel harmony, softened consonants, and saat, which keeps neither.
NOUNS = {
    "circle": ("daire", "dairenin"), "square": ("kare", "karenin"),
    "triangle": ("üçgen", "üçgenin"), "star": ("yıldız", "yıldızın"), "heart": ("kalp", "kalbin"),
    "cross": ("haç", "haçın"), "ring": ("halka", "halkanın"), "moon": ("ay", "ayın"),
    "dog": ("köpek", "köpeğin"), "cat": ("kedi", "kedinin"), "bird": ("kuş", "kuşun"),
    "fish": ("balık", "balığın"), "horse": ("at", "atın"), "house": ("ev", "evin"),
    "tree": ("ağaç", "ağacın"), "book": ("kitap", "kitabın"), "table": ("masa", "masanın"),
    "chair": ("sandalye", "sandalyenin"), "bed": ("yatak", "yatağın"),
    "window": ("pencere", "pencerenin"), "door": ("kapı", "kapının"),
    "key": ("anahtar", "anahtarın"), "cup": ("fincan", "fincanın"), "bottle": ("şişe", "şişenin"),
    "spoon": ("kaşık", "kaşığın"), "apple": ("elma", "elmanın"), "egg": ("yumurta", "yumurtanın"),
    "flower": ("çiçek", "çiçeğin"), "leaf": ("yaprak", "yaprağın"), "car": ("araba", "arabanın"),
    "boat": ("tekne", "teknenin"), "shoe": ("ayakkabı", "ayakkabının"),
    "hat": ("şapka", "şapkanın"), "shirt": ("gömlek", "gömleğin"), "bag": ("çanta", "çantanın"),
    "ball": ("top", "topun"), "clock": ("saat", "saatin"), "lamp": ("lamba", "lambanın"),
    "box": ("kutu", "kutunun"), "umbrella": ("şemsiye", "şemsiyenin"),
}  # fmt: skip


def say(thing, case):
    """A thing in a case, as `Grammar.say`."""
    noun = NOUNS[thing.noun][case == "genitive"]
    return spaced(ADJECTIVES[thing.size], ADJECTIVES[thing.colour], "bir", noun)


GRAMMAR = Grammar(
    say=say,
    links={
        "left of": Link("{second} solunda {first}", second="genitive"),
        "right of": Link("{second} sağında {first}", second="genitive"),
        "above": Link("{second} üstünde {first}", second="genitive"),
        "below": Link("{second} altında {first}", second="genitive"),
        "next to": Link("{second} yanında {first}", second="genitive"),
        "and": Link("{first} ve {second}"),
    },
    caption="{background} bir arka plan üzerinde, {phrase}",
    backgrounds={
        "plain": "düz",
        "striped": "çizgili",
        "dotted": "benekli",
        "checkered": "damalı",
    },
)
