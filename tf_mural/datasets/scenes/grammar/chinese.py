"""Simplified Chinese: the word order is numeral, measure word, color with 的, size, noun."""

from tf_mural.datasets.scenes.grammar.base import Grammar, LinkTemplate

SIZES = {None: "", "big": "大", "small": "小"}
COLORS = {
    None: "", "red": "红色的", "blue": "蓝色的", "green": "绿色的", "yellow": "黄色的",
    "orange": "橙色的", "purple": "紫色的", "black": "黑色的", "white": "白色的",
}  # fmt: skip
# Measure word and noun of each object.
NOUNS = {
    "circle": ("个", "圆形"), "square": ("个", "正方形"), "triangle": ("个", "三角形"),
    "star": ("颗", "星星"), "heart": ("颗", "爱心"), "cross": ("个", "十字"),
    "ring": ("个", "圆环"), "moon": ("个", "月亮"), "dog": ("只", "狗"), "cat": ("只", "猫"),
    "bird": ("只", "鸟"), "fish": ("条", "鱼"), "horse": ("匹", "马"), "house": ("座", "房子"),
    "tree": ("棵", "树"), "book": ("本", "书"), "table": ("张", "桌子"), "chair": ("把", "椅子"),
    "bed": ("张", "床"), "window": ("扇", "窗户"), "door": ("扇", "门"), "key": ("把", "钥匙"),
    "cup": ("个", "杯子"), "bottle": ("个", "瓶子"), "spoon": ("把", "勺子"),
    "apple": ("个", "苹果"), "egg": ("个", "鸡蛋"), "flower": ("朵", "花"),
    "leaf": ("片", "叶子"), "car": ("辆", "汽车"), "boat": ("艘", "船"), "shoe": ("只", "鞋子"),
    "hat": ("顶", "帽子"), "shirt": ("件", "衬衫"), "bag": ("个", "包"), "ball": ("个", "球"),
    "clock": ("个", "时钟"), "lamp": ("盏", "灯"), "box": ("个", "盒子"),
    "umbrella": ("把", "雨伞"),
}  # fmt: skip


def noun_phrase(obj, case):
    """Returns the noun phrase of an object in a case; see `Grammar.noun_phrase`."""
    measure, noun = NOUNS[obj.noun]
    return "一" + measure + COLORS[obj.color] + SIZES[obj.size] + noun


GRAMMAR = Grammar(
    noun_phrase=noun_phrase,
    link_templates={
        "left of": LinkTemplate("{first}在{second}左边"),
        "right of": LinkTemplate("{first}在{second}右边"),
        "above": LinkTemplate("{first}在{second}上方"),
        "below": LinkTemplate("{first}在{second}下方"),
        "next to": LinkTemplate("{first}在{second}旁边"),
        "and": LinkTemplate("{first}和{second}"),
    },
    caption_template="{background}背景上，{phrase}",
    backgrounds={
        "plain": "纯色",
        "striped": "条纹",
        "dotted": "波点",
        "checkered": "格子",
    },
    full_stop="。",
)
