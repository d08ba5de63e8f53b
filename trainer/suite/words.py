"""Hold the words of the evaluation suite: common knowledge, written for this project, in English and Chinese.

Cloze sentences are grouped by kind, so that wrong answers come from the same kind as the right one.
"""

CLOZE_EN: dict[str, tuple[tuple[str, str], ...]] = {
    "The opposite of {} is": (
        ("hot", "cold"),
        ("big", "small"),
        ("up", "down"),
        ("old", "new"),
        ("early", "late"),
        ("empty", "full"),
        ("wet", "dry"),
        ("dark", "light"),
        ("rich", "poor"),
        ("open", "closed"),
        ("soft", "hard"),
        ("fast", "slow"),
    ),
    "The capital of {} is": (
        ("France", "Paris"),
        ("Germany", "Berlin"),
        ("Italy", "Rome"),
        ("Spain", "Madrid"),
        ("Japan", "Tokyo"),
        ("China", "Beijing"),
        ("Russia", "Moscow"),
        ("Egypt", "Cairo"),
        ("Greece", "Athens"),
        ("Austria", "Vienna"),
        ("Portugal", "Lisbon"),
        ("Ireland", "Dublin"),
    ),
    "A {} is a kind of": (
        ("rose", "flower"),
        ("salmon", "fish"),
        ("sparrow", "bird"),
        ("hammer", "tool"),
        ("violin", "instrument"),
        ("carrot", "vegetable"),
        ("banana", "fruit"),
        ("sofa", "furniture"),
        ("beetle", "insect"),
        ("diamond", "stone"),
        ("pine", "tree"),
        ("truck", "vehicle"),
    ),
    "Ripe {} are usually": (
        ("bananas", "yellow"),
        ("tomatoes", "red"),
        ("blueberries", "blue"),
        ("oranges", "orange"),
    ),
    "You can buy bread from a baker, and {} from a": (
        ("meat", "butcher"),
        ("flowers", "florist"),
        ("medicine", "pharmacist"),
        ("fish", "fishmonger"),
    ),
    "To {} you need a": (
        ("cut paper", "pair of scissors"),
        ("open a locked door", "key"),
        ("see in the dark", "lamp"),
        ("write a letter by hand", "pen"),
        ("sweep the floor", "broom"),
        ("dig a hole", "shovel"),
    ),
}
"""Sentence with a gap for the first word of each pair -> (first word, answer)."""

CLOZE_ZH: dict[str, tuple[tuple[str, str], ...]] = {
    "“{}”的反义词是“": (
        ("大", "小"),
        ("高", "低"),
        ("冷", "热"),
        ("快", "慢"),
        ("新", "旧"),
        ("黑", "白"),
        ("长", "短"),
        ("多", "少"),
        ("轻", "重"),
        ("远", "近"),
        ("开", "关"),
        ("早", "晚"),
    ),
    "{}的首都是": (
        ("中国", "北京"),
        ("法国", "巴黎"),
        ("日本", "东京"),
        ("英国", "伦敦"),
        ("俄罗斯", "莫斯科"),
        ("德国", "柏林"),
        ("意大利", "罗马"),
        ("西班牙", "马德里"),
        ("埃及", "开罗"),
        ("韩国", "首尔"),
        ("泰国", "曼谷"),
        ("希腊", "雅典"),
    ),
    "{}是一种": (
        ("玫瑰", "花"),
        ("鲤鱼", "鱼"),
        ("麻雀", "鸟"),
        ("锤子", "工具"),
        ("小提琴", "乐器"),
        ("胡萝卜", "蔬菜"),
        ("香蕉", "水果"),
        ("沙发", "家具"),
        ("蚂蚁", "昆虫"),
        ("松树", "树"),
        ("卡车", "车"),
        ("钻石", "宝石"),
    ),
    "成熟的{}通常是": (
        ("香蕉", "黄色的"),
        ("番茄", "红色的"),
        ("橙子", "橙色的"),
        ("黄瓜", "绿色的"),
    ),
    "{}的时候需要用": (
        ("剪纸", "剪刀"),
        ("开锁", "钥匙"),
        ("扫地", "扫帚"),
        ("写字", "笔"),
        ("挖坑", "铲子"),
        ("下雨", "雨伞"),
    ),
}

SUBJECTS_EN: tuple[tuple[str, str], ...] = (
    ("key", "keys"),
    ("child", "children"),
    ("teacher", "teachers"),
    ("dog", "dogs"),
    ("letter", "letters"),
    ("picture", "pictures"),
    ("car", "cars"),
    ("woman", "women"),
    ("farmer", "farmers"),
    ("book", "books"),
)
"""Singular and plural."""
ATTRACTORS_EN: tuple[tuple[str, str], ...] = (
    ("near the house", "near the houses"),
    ("behind the tree", "behind the trees"),
    ("next to the table", "next to the tables"),
    ("in front of the door", "in front of the doors"),
    ("beside the river", "beside the rivers"),
)
VERBS_EN: tuple[tuple[str, str], ...] = (
    ("is old.", "are old."),
    ("was here yesterday.", "were here yesterday."),
    ("has been seen before.", "have been seen before."),
    ("belongs to us.", "belong to us."),
)

NOUNS_ZH: dict[str, tuple[str, ...]] = {
    "本": ("书", "杂志", "词典", "小说"),
    "辆": ("汽车", "自行车", "卡车", "公共汽车"),
    "条": ("河", "裤子", "鱼", "裙子"),
    "把": ("椅子", "雨伞", "钥匙", "剪刀"),
    "件": ("衬衫", "大衣", "毛衣", "行李"),
    "棵": ("树", "松树", "白菜", "大树"),
    "座": ("山", "桥", "城市", "大楼"),
    "杯": ("茶", "咖啡", "水", "牛奶"),
    "匹": ("马", "战马", "骆驼", "布"),
    "首": ("歌", "诗", "曲子", "儿歌"),
}
"""Measure word -> nouns that take it."""
FRAMES_ZH: tuple[str, ...] = ("我看见了一", "这里有三", "他想要两")

COPIED_EN: tuple[str, ...] = (
    "apple",
    "river",
    "green",
    "seven",
    "table",
    "music",
    "north",
    "paper",
    "horse",
    "glass",
    "summer",
    "window",
    "silver",
    "garden",
    "bread",
    "cloud",
    "stone",
    "mother",
    "winter",
    "yellow",
)
COPIED_ZH: tuple[str, ...] = tuple("天地人山水火木金土日月星雨风花草鸟鱼马牛")

DIGITS_ZH = "零一二三四五六七八九"


def number_in_chinese(number: int) -> str:
    """Return a number from 0 to 99 in Chinese numerals."""
    tens, ones = divmod(number, 10)
    if not tens:
        return DIGITS_ZH[ones]
    return ("" if tens == 1 else DIGITS_ZH[tens]) + "十" + (DIGITS_ZH[ones] if ones else "")
