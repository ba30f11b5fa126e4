"""Turkish: the second object comes first, in the genitive ("at a square's left a circle")."""

from tf_mural.datasets.scenes.grammar.base import Grammar, LinkTemplate, join_words

ADJECTIVES = {
    None: None, "big": "büyük", "small": "küçük", "red": "kırmızı", "blue": "mavi",
    "green": "yeşil", "yellow": "sarı", "orange": "turuncu", "purple": "mor", "black": "siyah",
    "white": "beyaz",
}  # fmt: skip
# Base form and genitive. The noun saat is irregular: it has no vowel harmony and no softening.
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


def noun_phrase(obj, case):
    """Returns the noun phrase of an object in a case; see `Grammar.noun_phrase`."""
    noun = NOUNS[obj.noun][case == "genitive"]
    return join_words(ADJECTIVES[obj.size], ADJECTIVES[obj.color], "bir", noun)


GRAMMAR = Grammar(
    noun_phrase=noun_phrase,
    link_templates={
        "left of": LinkTemplate("{second} solunda {first}", second="genitive"),
        "right of": LinkTemplate("{second} sağında {first}", second="genitive"),
        "above": LinkTemplate("{second} üstünde {first}", second="genitive"),
        "below": LinkTemplate("{second} altında {first}", second="genitive"),
        "next to": LinkTemplate("{second} yanında {first}", second="genitive"),
        "and": LinkTemplate("{first} ve {second}"),
    },
    caption_template="{background} bir arka plan üzerinde, {phrase}",
    backgrounds={
        "plain": "düz",
        "striped": "çizgili",
        "dotted": "benekli",
        "checkered": "damalı",
    },
)
