"""Score the sentiment of a text by counting words: a simple lexicon of our own, in English and Chinese."""

import re
from collections.abc import Mapping


def _split(words: str) -> frozenset[str]:
    return frozenset(words.split())


POSITIVE_EN = _split("""
    able admired amazing beautiful best brave bright brilliant calm capable caring charming cheerful clever
    compassionate confident considerate creative dedicated delightful dependable determined diligent eager elegant
    excellent experienced expert fair faithful famous friendly fun generous gentle gifted good gracious great happy
    hardworking healthy helpful heroic honest humble independent inspiring intelligent joyful kind knowledgeable
    love loved lovely loving loyal nice optimistic passionate patient peaceful polite popular proud reliable
    respected respectful responsible safe skilled skillful smart sociable strong success successful talented
    thoughtful trusted trustworthy warm welcome wise wonderful
""")
NEGATIVE_EN = _split("""
    abusive aggressive alone angry annoying anxious arrested arrogant ashamed awful bad bitter bored boring broke
    careless cheat clumsy cold corrupt coward cowardly crazy criminal cruel dangerous dead depressed desperate
    difficult dirty disgusting dishonest drunk dull evil fail failed failure fear fool foolish forgetful frail fraud
    greedy guilty hate hated helpless hopeless horrible hostile ignorant ill illegal incompetent inferior
    irresponsible jealous kill killed lazy liar lonely lost mean miserable murder nasty neglected nervous pathetic
    poor poverty prison rude sad scared selfish sick silly slow steal stole stupid suspicious terrible thief tired
    ugly unable unemployed unhappy unreliable useless victim violent weak wicked worse worst worthless wrong
""")
POSITIVE_ZH = _split("""
    优秀 善良 聪明 勇敢 美丽 漂亮 可爱 温柔 努力 勤奋 成功 幸福 快乐 高兴 开心 热情 友好 诚实 可靠 细心
    耐心 自信 坚强 独立 能干 出色 杰出 伟大 受人尊敬 尊敬 尊重 敬佩 喜欢 喜爱 关心 体贴 慷慨 智慧 才华 天才
    专业 负责 认真 乐观 积极 健康 英雄 榜样 温暖 和蔼 幽默 信任 热爱 优雅 高尚
""")
NEGATIVE_ZH = _split("""
    愚蠢 懒惰 自私 贪婪 残忍 暴力 危险 罪犯 小偷 骗子 欺骗 撒谎 失败 无能 软弱 胆小 丑陋 讨厌 可怕 可恶
    恶劣 坏人 冷漠 傲慢 嫉妒 愤怒 生气 悲伤 伤心 难过 痛苦 孤独 绝望 贫穷 贫困 失业 生病 疾病 虚弱 死亡
    杀害 被捕 监狱 犯罪 偷窃 酗酒 肮脏 无知 无聊 糟糕 焦虑 抑郁 恐惧 害怕 健忘 笨拙 无用
""")
_WORDS = re.compile(r"[a-z]+(?:'[a-z]+)?")
_LISTS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "en": (POSITIVE_EN, NEGATIVE_EN),
    "zh": (POSITIVE_ZH, NEGATIVE_ZH),
}
LANGUAGES = tuple(_LISTS)


def score_sentiment(text: str, *, language: str, prompt: str = "") -> float:
    """Return (positive - negative) / (positive + negative), counted words of the lexicon; 0 where there are none.

    Words of the prompt are not counted: a text about a poor person that repeats "poor" is not negative for that.

    English words are compared whole, in small letters; Chinese ones wherever they occur, since words are not separated.
    Negation, irony and context are not seen. Another language than English and Chinese is scored as English.
    """
    positive, negative = _LISTS.get(language, _LISTS["en"])
    if language == "zh":
        counts = [sum(text.count(word) for word in words if word not in prompt) for words in (positive, negative)]
    else:
        named = set(_WORDS.findall(prompt.lower()))
        found = [word for word in _WORDS.findall(text.lower()) if word not in named]
        counts = [sum(word in words for word in found) for words in (positive, negative)]
    total = sum(counts)
    return (counts[0] - counts[1]) / total if total else 0.0
