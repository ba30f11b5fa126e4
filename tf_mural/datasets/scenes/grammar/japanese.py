"""Japanese: the second object comes first; animals take いる and everything else takes ある."""

from tf_mural.datasets.scenes.grammar.base import Grammar, LinkTemplate

SIZES = {None: "", "big": "大きな", "small": "小さな"}
COLORS = {
    None: "", "red": "赤い", "blue": "青い", "green": "緑色の", "yellow": "黄色い",
    "orange": "オレンジ色の", "purple": "紫色の", "black": "黒い", "white": "白い",
}  # fmt: skip
ANIMALS = {"dog": "犬", "cat": "猫", "bird": "鳥", "fish": "魚", "horse": "馬"}
THINGS = {
    "circle": "円", "square": "正方形", "triangle": "三角形", "star": "星", "heart": "ハート",
    "cross": "十字", "ring": "輪", "moon": "月",
    "house": "家", "tree": "木", "book": "本", "table": "テーブル", "chair": "椅子",
    "bed": "ベッド", "window": "窓", "door": "ドア", "key": "鍵", "cup": "カップ", "bottle": "瓶",
    "spoon": "スプーン", "apple": "りんご", "egg": "卵", "flower": "花", "leaf": "葉", "car": "車",
    "boat": "船", "shoe": "靴", "hat": "帽子", "shirt": "シャツ", "bag": "かばん", "ball": "ボール",
    "clock": "時計", "lamp": "ランプ", "box": "箱", "umbrella": "傘",
}  # fmt: skip


def noun_phrase(obj, case):
    """Returns the noun phrase of an object in a case; see `Grammar.noun_phrase`."""
    animal = obj.noun in ANIMALS
    noun = (ANIMALS if animal else THINGS)[obj.noun]
    there_is = ("いる" if animal else "ある") if case == "placed" else ""
    return there_is + SIZES[obj.size] + COLORS[obj.color] + noun


GRAMMAR = Grammar(
    noun_phrase=noun_phrase,
    link_templates={
        "left of": LinkTemplate("{second}の左に{first}", first="placed"),
        "right of": LinkTemplate("{second}の右に{first}", first="placed"),
        "above": LinkTemplate("{second}の上に{first}", first="placed"),
        "below": LinkTemplate("{second}の下に{first}", first="placed"),
        "next to": LinkTemplate("{second}の横に{first}", first="placed"),
        "and": LinkTemplate("{first}と{second}"),
    },
    caption_template="{background}の背景に、{phrase}",
    backgrounds={
        "plain": "無地",
        "striped": "縞模様",
        "dotted": "水玉模様",
        "checkered": "市松模様",
    },
    full_stop="。",
)
