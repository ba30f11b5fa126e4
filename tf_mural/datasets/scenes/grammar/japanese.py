"""Japanese: the second thing comes first; animals いる where things ある."""

from tf_mural.datasets.scenes.grammar.base import Grammar, Link

SIZES = {None: "", "big": "大きな", "small": "小さな"}
COLOURS = {
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


def say(thing, case):
    """A thing in a case, as `Grammar.say`."""
    animal = thing.noun in ANIMALS
    noun = (ANIMALS if animal else THINGS)[thing.noun]
    there_is = ("いる" if animal else "ある") if case == "placed" else ""
    return there_is + SIZES[thing.size] + COLOURS[thing.colour] + noun


GRAMMAR = Grammar(
    say=say,
    links={
        "left of": Link("{second}の左に{first}", first="placed"),
        "right of": Link("{second}の右に{first}", first="placed"),
        "above": Link("{second}の上に{first}", first="placed"),
        "below": Link("{second}の下に{first}", first="placed"),
        "next to": Link("{second}の横に{first}", first="placed"),
        "and": Link("{first}と{second}"),
    },
    caption="{background}の背景に、{phrase}",
    backgrounds={
        "plain": "無地",
        "striped": "縞模様",
        "dotted": "水玉模様",
        "checkered": "市松模様",
    },
    stop="。",
)
