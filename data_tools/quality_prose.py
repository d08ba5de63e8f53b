"""Clean prose to try the rules of quality on: out of sample files, or a few short texts of our own.

A page also has headings, lists, code, menus and paragraphs that nobody translated. Its prose is taken to be its long
lines in the page's language that begin with a letter or a quotation mark, have a full stop somewhere, and none of the
signs of code.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from data_tools.config import DataPrepConfig, SourceConfig
from data_tools.document import Document
from data_tools.identify_language import LanguageIdentifier
from data_tools.ledger import Ledger
from data_tools.quality_config import LanguageConfig
from data_tools.readers import read_documents
from data_tools.sources import open_input, resolve_inputs
from data_tools.steps import build_steps

KINDS = {".warc.gz": "warc", ".wet.gz": "warc", ".xml.bz2": "wikipedia", ".jsonl.gz": "jsonl"}
"""Ending of a sample file -> kind of source."""
MIN_LINES = 5
MIN_LINE_CHARACTERS = 60
MIN_LINE_CHARACTERS_DENSE = 25
"""The same for Chinese, Japanese and Korean, which say as much with fewer signs."""
QUOTES = "\"'“‘«「『《（("
CODE_SIGNS = frozenset("{}<>\\|=$#_@~^`")
_FULL_STOP = re.compile(r"[.!?؟](?:\s|$)|[。！？]")
DENSE = ("zh", "ja", "ko")


def read_prose(samples: Path, *, languages: tuple[str, ...], max_documents: int) -> dict[str, list[str]]:
    """Take prose out of all sample files of a directory.

    Returns:
        Language -> different documents, at most so many of each.
    """
    identifier = LanguageIdentifier(LanguageConfig(identify=True))
    prose: dict[str, dict[str, None]] = defaultdict(dict)
    for path in sorted(samples.iterdir()):
        kind = find_kind(path)
        for document in _read_texts(path, kind) if kind else ():
            language, _ = identifier.identify(document.text)
            if language not in languages or len(prose[language]) >= max_documents:
                continue
            minimum = MIN_LINE_CHARACTERS_DENSE if language in DENSE else MIN_LINE_CHARACTERS
            lines = [line.strip() for line in document.text.split("\n") if len(line) >= minimum]
            # Each once: what a page says again is its frame.
            lines = list(dict.fromkeys(lines))
            lines = [line for line in lines if _is_prose(line) and identifier.identify(line)[0] == language]
            text = "\n\n".join(lines)
            if len(lines) >= MIN_LINES and len(text) >= MIN_LINES * 2 * minimum:
                prose[language][text] = None
    return {language: list(texts) for language, texts in prose.items()}


def read_texts(directory: Path, *, max_documents: int) -> dict[str, list[str]]:
    """Read text files that lie in a directory for each language.

    Returns:
        Name of the directory -> its texts, at most so many, from all parts of the list of its files.
    """
    found = {}
    for place in sorted(path for path in directory.iterdir() if path.is_dir()):
        files = sorted(path for path in place.rglob("*") if path.is_file())
        step = max(1.0, len(files) / max_documents)
        chosen = [files[int(number * step)] for number in range(min(len(files), max_documents))]
        found[place.name] = [path.read_text(encoding="utf-8") for path in chosen]
    return found


def read_pages(samples: Path, *, language: str, max_documents: int) -> list[str]:
    """Whole texts of one language out of all sample files of a directory, from each file in turn."""
    identifier = LanguageIdentifier(LanguageConfig(identify=True))
    files = [(path, kind) for path in sorted(samples.iterdir()) if (kind := find_kind(path))]
    found: list[list[str]] = []
    for path, kind in files:
        texts = (document.text for document in _read_texts(path, kind))
        wanted = (text for text in texts if identifier.identify(text)[0] == language)
        found.append(list(itertools.islice(wanted, max_documents)))
    turns = itertools.zip_longest(*found)
    return [text for turn in turns for text in turn if text is not None][:max_documents]


def find_kind(path: Path) -> str | None:
    """The kind of source that a sample file is; None for other files."""
    return next((kind for ending, kind in KINDS.items() if path.name.endswith(ending)), None)


def _is_prose(line: str) -> bool:
    begins_well = line[0].isalpha() or line[0] in QUOTES
    return begins_well and bool(_FULL_STOP.search(line)) and not CODE_SIGNS.intersection(line)


def _read_texts(path: Path, kind: str) -> Iterator[Document]:
    source = SourceConfig(name="samples", kind=kind, paths=[str(path)])  # type: ignore[arg-type]
    config = DataPrepConfig(output_dir="", sources=[source])
    files, _ = resolve_inputs([source])
    ledger = Ledger()
    for file in files:
        with open_input(file) as stream:
            documents = read_documents(file, stream=stream, ledger=ledger, config=config)
            for step in build_steps(config, ledger=ledger):
                documents = step(documents)
            yield from documents


OWN_PROSE: dict[str, str] = {
    "en": """\
The old mill stands at the end of the valley, where the river slows down and the road turns toward the hills. Nobody \
has ground corn there for sixty years, but the wheel still moves when the water is high in spring. Children from the \
village come to fish below the weir, and they have to be called home when the evening mist begins to rise.

My grandmother remembered the day on which the last miller closed the door behind him. He had carried the sacks down \
the steps himself, one after another, and then he gave the key to the priest. Of all the things that he left behind, \
only the great stone is still in its place, because no one has found a cart that could bear it.

People often ask why the house was never sold. The answer is simple: the deed was lost in the flood, and with it the \
names of those who owned the land. So the mill belongs to everybody, and everybody takes a little care of it.
""",
    "zh": """\
村子的尽头有一座旧磨坊，河水流到那里就慢了下来，道路也从那里转向山里。六十年来没有人在那里磨过面，但是每到春天水位升高的时候，\
水轮还是会慢慢地转动。孩子们常常到堤坝下面钓鱼，傍晚起雾的时候，大人才把他们叫回家。

我的祖母还记得最后一位磨坊主关上大门的那一天。他自己把一袋一袋的面粉背下台阶，然后把钥匙交给了村里的老师。他留下的东西当中，\
只有那块大石磨还在原来的地方，因为谁也找不到一辆能够拉得动它的车。

人们常常问，这座房子为什么一直没有卖掉。答案很简单：地契在洪水中丢失了，土地主人的名字也跟着一起消失了。\
所以磨坊属于每一个人，每一个人也都会照看它一点。天气好的时候，村里的老人喜欢坐在门前的石头上，一边喝茶一边讲过去的故事。
""",
    "ja": """\
村のはずれに古い水車小屋が立っている。川の流れはそこでゆるやかになり、道は山の方へ曲がっていく。もう六十年もそこで粉をひいた人は\
いないが、春に水かさが増すと、水車は今でもゆっくりと回りはじめる。子どもたちは堰の下へ釣りに来て、夕方に霧が出るころ、家に呼び戻される。

祖母は、最後の粉屋が戸を閉めた日のことを覚えていた。彼は袋を一つずつ自分で運び出し、それから鍵を学校の先生に渡したという。\
彼が残していったもののうち、大きな石臼だけが今も同じ場所にある。それを運べる荷車が、どこにも見つからなかったからだ。

なぜこの家は売られなかったのかと、人はよくたずねる。答えは簡単である。権利書が洪水で流され、土地の持ち主の名前も一緒に失われてしまった。\
だから水車小屋はみんなのものであり、みんなが少しずつ手入れをしている。天気のよい日には、年寄りたちが戸口の石に腰をかけて、昔の話をする。
""",
    "ko": """\
마을 끝에는 오래된 물레방앗간이 서 있다. 강물은 그곳에서 느려지고 길은 산 쪽으로 굽어 들어간다. 육십 년 동안 \
아무도 그곳에서 곡식을 빻지 않았지만, 봄에 물이 불어나면 물레는 지금도 천천히 돌아간다. 아이들은 둑 아래로 \
낚시를 하러 오고, 저녁 안개가 피어오르면 집으로 불려 간다.

할머니는 마지막 방앗간 주인이 문을 닫던 날을 기억하고 계셨다. 그는 자루를 하나씩 직접 지고 계단을 내려왔고, \
그다음에 열쇠를 마을 선생님에게 건네주었다. 그가 남기고 간 것들 가운데 커다란 맷돌만이 아직도 제자리에 있는데, \
그것을 실을 만한 수레를 아무도 찾지 못했기 때문이다.

사람들은 왜 이 집이 팔리지 않았느냐고 자주 묻는다. 대답은 간단하다. 땅문서가 홍수에 떠내려갔고, 땅 주인의 이름도 \
함께 사라졌다. 그래서 방앗간은 모두의 것이고, 모두가 조금씩 그것을 돌본다. 날씨가 좋은 날이면 노인들이 문 앞의 \
돌에 앉아 옛날 이야기를 들려준다.
""",
    "ru": """\
На краю долины стоит старая мельница, там река течёт медленнее, а дорога поворачивает к холмам. Уже шестьдесят лет на \
ней никто не мелет зерно, но весной, когда вода поднимается, колесо всё ещё вращается. Дети из деревни приходят ловить \
рыбу у плотины, и вечером, когда поднимается туман, их приходится звать домой.

Моя бабушка помнила день, когда последний мельник закрыл за собой дверь. Он сам снёс мешки по лестнице, один за \
другим, и потом отдал ключ учителю. Из всех вещей, что он оставил, только большой жернов лежит на своём месте, потому \
что никто не нашёл телеги, которая могла бы его увезти.

Люди часто спрашивают, почему дом так и не продали. Ответ простой: бумаги пропали во время наводнения, и с ними \
пропали имена тех, кому принадлежала земля. Поэтому мельница принадлежит всем, и каждый понемногу о ней заботится.
""",
    "ar": """\
في آخر الوادي تقف طاحونة قديمة، حيث يبطئ النهر جريانه ويميل الطريق نحو التلال. لم يطحن أحد فيها القمح منذ ستين عاما، \
لكن العجلة ما زالت تدور عندما يرتفع الماء في الربيع. يأتي أطفال القرية إلى السد من أجل الصيد، ثم يناديهم أهلهم إلى \
البيت عندما يبدأ ضباب المساء في الصعود.

كانت جدتي تتذكر اليوم الذي أغلق فيه آخر طحان الباب وراءه. حمل الأكياس بنفسه على الدرج، كيسا بعد كيس، ثم أعطى المفتاح \
إلى معلم القرية. ومن كل الأشياء التي تركها لم يبق في مكانه إلا الحجر الكبير، لأن أحدا لم يجد عربة تقدر على حمله.

يسأل الناس كثيرا عن السبب الذي جعل هذا البيت لا يباع. الجواب بسيط: ضاعت الأوراق في الفيضان، وضاعت معها أسماء أصحاب \
الأرض. لذلك صارت الطاحونة ملكا للجميع، وكل واحد منهم يعتني بها قليلا. وفي الأيام الجميلة يجلس الشيوخ على الحجر أمام \
الباب، ويحكون ما يعرفون من أخبار الماضي.
""",
}
"""Language -> a short story, the same in each."""
