"""List the names of wiki templates by their output, in the languages of the larger Wikipedias.

Each table has all languages: a name rarely has another meaning on another wiki, and wikis adopt templates with their
names. Names are case-folded, with underscores for spaces.
"""

import re


def read_names(text: str) -> frozenset[str]:
    """Return the names in a table, one per word."""
    return frozenset(name.replace("_", " ").casefold() for name in text.split())


TEXT_ARGUMENTS = (
    "1", "text", "quote", "content", "contents", "citation", "zitat", "texte", "texto", "testo", "tekst", "citaat",
    "cita", "citazione", "citação", "cytat", "treść", "текст", "цитата", "文", "内容", "內容", "本文", "引文", "글",
    "인용문", "내용", "نص", "اقتباس", "title", "titre", "label", "name", "word", "lt", "display",
)  # fmt: skip
"""Names of the argument that holds the text of a template, if it is not positional."""

FIRST_ARGUMENT = read_names("""
    nowrap nobr nobreak no_wrap nobold noitalic small smaller big large larger huge sc smallcaps small_caps em
    strong italic bold i b u code mono monospace tt kbd key samp var mvar math bigmath abbr tooltip vanchor
    visible_anchor angbr angle_bracket api afi abréviation abréviations
    quote cquote quotation blockquote bq poemquote poem_quote quote_text
    quote_box quotebox centered_pull_quote verse_translation center centre right ipa flag flagcountry flagu unicode
    script hebrew rtl-lang linktext not_a_typo proper_name aut char underline strike overline railgauge track_gauge
    native_phrase allow_wrap marriage vr gr gloss lit literal_translation translation sic typo pull_quote rquote
    epigraph poem lj nowrapend nobreakspace formatnum nts number nombre num число ntsh country flagg fb fbw nft
    bibleref noruby ruby-ja ruby-zh ruby-ko col-begin div_col column column-width columns-list colonnes multicol
    only inline_block dfn ins del s-text cslist csl pagelist zitat kapitälchen polytonisch altgriechisch hebräisch
    arabisch hochgestellt tiefgestellt fett kursiv citation_bloc citation_bloc_alternative début_de_citation nb_de
    petit grand incise guil guillemets citation_étrangère anglais allemand espagnol italien latin grec_ancien
    japonais refnec référence_nécessaire passage_à_vérifier souverain souverain- souverain2 pape graphie exposant
    indice_texte page_h' romain rom-maj rom cita cita_texto destacado versalita versalitas esd bandera2 pequeño
    grande citazione maiuscoletto tutto_attaccato senza_fonte inglese latino francese tedesco spagnolo greco_antico
    russo giapponese cinese portoghese arabo ebraico polacco nazione chiarire citação citação2 quote1 quote2 quote3
    destaque ta fmtn ilc carece_de_fontes2 citaat citaat2 klein cytat cytat_d małe państwo цитата начало_цитаты
    цитата_2 comment флагификация мфа nobr_begin strong_text так_в_тексте s-ru 引用 引用文 quotation2 ふりがな ルビ
    要出典 要出典範囲 補助漢字フォント cp932フォント jis2004フォント jis90フォント 拡張漢字 旧字体 小 大 僻字 不转字
    引文 引言 quote_zh 人名 專名 인용문 인용문2 인용 국기 국기나라 한자 작게 옛한글 나라 اقتباس اقتباس_مضمن
    اقتباس_خاص قرآن إنج فرن ألم لات إسب إيط روس يون عبر تر صغير كبير علم آية
""")

SECOND_ARGUMENT = read_names("""
    lang langue language color colour font_color fontcolor resize font transl transliteration translit native_name
    hover_title h:title llang langx wikt-lang sort sortkey lang2 cizojazyčně lang-x style span background_color bg
    legend legend2 legend_inline color_box_text fs font_size fontsize size fsize rtl script/arabic farbe
    schriftgröße surlignage نص_لون خط
""")

JOINED_ARGUMENTS = {
    "hlist": ", ", "flatlist": ", ", "unbulleted list": ", ", "ubl": ", ", "plainlist": "\n", "bulleted list": "\n",
    "ordered list": "\n", "ublist": ", ", "comma separated entries": ", ", "blist": "\n", "liste horizontale": ", ",
    "plain list": "\n", "cslist": ", ", "liste simple": ", ", "lista": "\n", "br separated entries": "\n",
    "keypress": "+", "key press": "+", "keyboard key": "+", "key": "+", "touche": "+", "tecla": "+", "tasto": "+",
    "taste": "+", "キー": "+", "klawisz": "+", "respell": "-", "pronunciation respelling": "-", "gaps": "",
    "formatnum gaps": "", "bibleverse": " ", "bibleref": " ", "bibleref2": " ", "bible verse": " ", "bibel": " ",
    "biblia": " ", "bibbia": " ", "библия": " ", "sortname": " ", "sort name": " ", "sortkeyname": " ", "nombre": " ",
    "nb": " ", "fmtn": " ", "num": " ", "jct": "-", "party name with color": " ", "citation literale": " ",
}  # fmt: skip
"""Templates that show all their arguments -> the separator."""

PREFIXES = {
    "circa": "c. ", "c.": "c. ", "ca.": "ca. ", "floruit": "fl. ", "fl.": "fl. ", "b.": "b. ", "born": "b. ",
    "d.": "d. ", "died": "d. ", "reign": "r. ", "r.": "r. ", "§": "§ ", "art.": "art. ",
    "m.": "M. ", "mme": "Mme ", "mlle": "Mlle ", "dr": "Dr ", "pr": "Pr ", "mgr": "Mgr ", "me": "Me ", "mm.": "MM. ",
    "no": "n° ", "n°": "n° ", "numéro": "n° ", "numero": "n. ", "nº": "n.º ",
    "siglo": "siglo ", "séc": "século ", "século": "século ", "sqrt": "√", "radic": "√", "10^": "10^",
}  # fmt: skip
"""Text before the arguments; two arguments are joined by a dash."""

SUFFIXES = {"mya": " million years ago", "ma": " Ma", "bya": " billion years ago", "ka": " ka", "ya": " years ago"}

LITERALS = {
    "!": "|", "!!": "||", "!-": "|-", "(!": "{|", "!)": "|}", "end": "|}", "=": "=", "(": "{", ")": "}", "ndash": "–",
    "mdash": "—", "–": "–", "—": "—", "endash": "–", "emdash": "—", "en dash": "–", "em dash": "—", "snd": " – ",
    "spnd": " – ", "spaced ndash": " – ", "spaced en dash": " – ", "spaced mdash": " — ", "mdashb": "—",
    "snds": " – ", "spaced en dash space": " – ", "dash": " – ", "tire": " — ", "тире": " — ", "nbsp": " ",
    "space": " ", "spaces": " ", "thin space": " ", "thinsp": " ", "hair space": " ", "nnbsp": " ", "nb5": " ",
    "esp": " ", "'": "'", "'s": "'s", "'-": "'", "-'": "'", "' \"": "' \"", "\" '": "\" '", "apostrophe": "'",
    "-": "\n", "clear": "\n", "·": " · ", "•": " • ", "*": " • ", "dot": " · ", "middot": " · ", "bull": " • ",
    "bold dot": " · ", "·w": " · ", "•w": " • ", "sp": " ", "zwsp": "", "shy": "", "wbr": "", "zwj": "\u200d",
    "zwnj": "\u200c", "br": "\n", "break": "\n", "crlf": "\n", "pi": "π", "times": "×", "x": "×", "minus": "−",
    "plusmn": "±", "±": "±", "degree": "°", "deg": "°", "°": "°", "ayin": "ʿ", "okina": "ʻ", "ʻokina": "ʻ",
    "'okina": "ʻ", "hamza": "ʾ", "pc": " %", "percent": "%", "etal": "et al.", "et al.": "et al.",
    "av jc": "av. J.-C.", "av. j.-c.": "av. J.-C.", "avjc": "av. J.-C.", "ap jc": "apr. J.-C.",
    "apr. j.-c.": "apr. J.-C.", "ap. j.-c.": "apr. J.-C.", "a. c.": "a. C.", "ac": "a. C.", "d. c.": "d. C.",
    "n. e.": "n. e.", "p. n. e.": "p. n. e.", "до н. э.": "до н. э.", "н. э.": "н. э.", "dagger": "†", "†": "†",
    "double dagger": "‡", "asterisk": "*", "section": "§", "numero sign": "№", "№": "№", "ohm": "Ω", "micro": "µ",
    "infinity": "∞", "star": "★", "female": "♀", "male": "♂", "hash": "#", "tm": "™", "registered": "®",
    "ellipsis": "…", "...": "…", "cite missing": "", "yes": "Yes",
}  # fmt: skip
"""Templates without arguments -> their text."""

SIGNS = {
    "flat": "♭", "sharp": "♯", "natural": "♮", "doubleflat": "𝄫", "doublesharp": "𝄪", "b": "♭", "#": "♯", "n": "♮",
    "bb": "𝄫", "##": "𝄪", "x": "𝄪", "fermata": "𝄐", "trill": "𝆖", "treble": "𝄞", "bass": "𝄢", "alto": "𝄡",
}  # fmt: skip

DATES = read_names("""
    birth_date birth_date_and_age birth-date birth-date_and_age death_date death_date_and_age death-date
    death-date_and_age start_date end_date start_date_and_age end_date_and_age birth_year_and_age death_year_and_age
    birth_year birth_based_on_age_as_of_date film_date dts date_table_sorting bda dda dob dod start-date end-date
    date_and_age date_de_naissance date_de_décès date_de_naissance- date_de_décès- naissance décès date date-
    date_sport date_républicaine date_de_sortie datumzelle dtsx geburtsdatum fecha fecha_de_nacimiento
    fecha_de_fallecimiento fecha_de_defunción fecha_de_inicio fecha_de_fin fecha_de_publicación
    fecha_de_nacimiento_y_edad fecha_de_fallecimiento_y_edad fecha_de_estreno fecha_de_inicio_y_edad data
    data_di_nascita data_nascita data_morte dni dnibr dtlink dtext morte falecimento_e_idade nascimento
    data_de_nascimento data_de_nascimento_e_idade data_início dataext geboortedatum geboren overleden sterfdatum
    datum data_urodzenia data_śmierci data_simple дата дата_рождения дата_смерти др дс дата_рождения_и_возраст
    дата_начала дата_смерти_и_возраст дата_утраты дата_народження дата_смерті 生年月日と年齢 生年月日 没年齢
    死亡年月日と没年齢 没年月日 開始日 出生日期 出生日期及年龄 出生日期及年齡 出生年月 逝世日期 逝世日期及年齡
    逝世日期及年龄 bd-date 开始日期 起始日期 출생일과_나이 출생일 사망일과_만나이 사망일과_나이 사망일 시작_날짜
    종료_날짜 시작일 날짜 개봉일 تاريخ_الميلاد تاريخ_الوفاة تاريخ_الوفاة_والعمر تاريخ_الميلاد_والعمر تاريخ_بداية
    تاريخ_البدء تاريخ_نهاية تاريخ تاريخ_ميلاد تاريخ_وفاة
""")

LINKS = read_names("""
    ill interlanguage_link illm iil interlanguage_link_multi lien link-interwiki internal_link_helper 仮リンク le
    link-en link-ja link-fr link-de link-ru link-ko ilh 跨語言連結 跨语言链接 i18n ilc wikilink link_interwiki
    rød_lenke enlace_interlenguaje 임시링크 وإو وصلة_إنترويكي wilayah
""")
"""Links to pages of other wikis, which show their first argument unless they have a label."""

LINK_LABELS = ("lt", "display", "label", "texte", "text", "tekst", "fr", "1", "d", "عر", "نص", "nm", "trad")

LINKS_WITH_LABEL = read_names("""
    нп нп1 нп2 нп3 нп4 нп5 iw iw2 не_переведено не_переведено_2 не_переведено_3 не_переведено_5 не_переведено2
    не_переведено3 не_переведено5 не_перекладено wikidata_link w
""")
"""Links whose second argument is the label if it is not empty."""

FOREIGN_FIRST = read_names("tsl translink 譯 dlink link d-link link_ln lw")
"""Links with three arguments: language, foreign title, own title."""

CONVERSIONS = read_names("convert cvt konvertieren conversion convertir convertire converter omrekenen تحويل")
MEASURES = read_names("""
    unité unit unidad unidade unità unitat m fläche entfernung einheit tmp nb_unité dunité grandeur
    jednotka jednostka единицы 単位 单位
""")
FRACTIONS = read_names("""
    frac sfrac fraction bruch breuk ułamek дробь zlomek fração fracción frazione 分数 분수 كسر brøk bråk fracció
""")

# Templates without prose: references, notes about the page, boxes, coordinates, media, links to elsewhere.
HIDDEN = read_names("""
    r rp ref ref_label note note_label refn efn efn-ua efn-lr efn-la notetag notelist reflist references sfn sfnp
    sfnm sfnref harv harvnb harvp harvcol harvcoltxt harvsp harvsp2 harvnp harvid fn fnb fnz fnbox fnza
    references-small odn odwołanie référence références sfn-fr listaref notas referencias приме́чания примечания
    примечание kilder refbegin refend refliste noot voetnoot bronvermelding przypisy uwaga przypis 脚注リスト 注
    注釈 脚注ヘルプ refnest 각주 주 مراجع ref-en ouvrage article chapitre lien_web lien_vidéo périodique
    bibliographie plume_d'or internetquelle literatur webarchiv wayback webarchive книга статья публикация источник
    citation_style isbn issn oclc doi pmid jstor arxiv bibcode lccn asin imdb imdb_title imdb_name imdb_nome url
    official_website official site_officiel homepage citation_needed cn fact fakt fakta citationneeded clarify when
    who which whom by_whom where why how vague dubious disputed_inline according_to_whom page_needed verify_source
    failed_verification better_source_needed better_source unreliable_source? full qualify_evidence update_inline
    specify explain elucidate quantify weasel_inline pov-statement lead_too_short bron? bron нет_аи кто где когда
    уточнить уточнить_источник кому неавторитетный_источник источник? прояснить что достоверность quoi qui quand où
    lesquels lesquelles combien pourquoi comment préciser à_sourcer source? belege_fehlen belege quelle quellen
    cita_requerida carece_de_fontes quem quando qual onde enlace_roto lien_brisé lien_mort dead_link dode_link
    martwy_link мёртвая_ссылка недоступная_ссылка 出典の明記 いつ 誰 誰2 どこ リンク切れ 来源请求 來源請求 fact-zh
    何时 谁 谁说的 出典無効 출처 출처_필요 언제 누가 بحاجة_لمصدر مصدر حقيقة من متى fonte main see_also see further
    further_information details about for other_uses distinguish redirect hatnote main_article mainarticle
    other_people for_multi not_to_be_confused_with redirect-distinguish see_introduction siehe_auch hauptartikel
    begriffsklärungshinweis dieser_artikel article_détaillé article_connexe voir_aussi loupe voir_homonymes
    autres_projets confusion ap vt vt2 véase_también véase artículo_principal artículos_principales otros_usos
    vedi_anche nota_disambigua torna_a artigo_principal ver_também ver_artigo_principal desambigexplicada
    outros_usos ap-pt vt-pt artigos_principais zie_ook zie_hoofdartikel hoofdartikel zie_dp zie_artikel
    osobny_artykuł zobacz_też inne_znaczenia disambigr główny_artykuł основная_статья см._также другие_значения
    main-ru перенаправление о_другом 主条目 参照 otheruses 另见 參見 参见 主條目 关于 關於 distinguish2 本文-hat
    본문 다른_뜻 참고 같이_보기 다른_뜻_넘어옴 مفصلة انظر_أيضا انظر_أيضًا للاستعمالات_الأخرى عن هذه_المقالة coord
    coordinate coordinates coordonnées koordinaten koordinate coordenadas coördinaten współrzędne координаты 座標
    ウィキ座標 坐标 座标 좌표 إحداثيات mapit location_map short_description use_dmy_dates use_mdy_dates
    use_american_english use_british_english good_article featured_article lesenswert exzellent stub ébauche esbozo
    abbozzo esboço beginnetje zalążek заготовка 스텁 بذرة authority_control normdaten personendaten
    control_de_autoridades controllo_di_autorità kontrola_autorytatywna portal portail portale portal_bar
    portail-lien commons commonscat commons_category wikiquote wikisource wiktionary wikivoyage sister_project_links
    interprogetto autres_projets_wikimédia clear_left clear_right clearleft toc toc_right toc_left tocright
    defaultsort notoc multiple_image gallery image_frame css_image_crop annotated_image listen audio anchor anchors
    anker ancre ancla âncora якорь kotwica アンカー 앵커 flagicon flag_icon flagdeco flagicon_image drapeau bandera
    bandiera vlag flaga флаг флагиконка 国旗图标 국기그림 رمز_علم bandeira flagikon флаг2 noteta nobots bots
    protected post-nominals postnominals post-nominals/gb noteta-lite noteta/link party_color color_box 0 hs
    hidden_sort_key sort_hidden phantom padlsup ruler appendix inuse ipa_audio audio-ipa pronunciation hörbeispiel
    écouter audio_link escuchar ecouter
""")

COMPUTED = read_names("""
    age age_in_years age_in_days age_in_years_and_days age_in_years,_months_and_days alter edad età idade leeftijd wiek
    возраст 年齢 年齡 나이 عمر âge time_ago inflation inflation-year ewz ewd metadaten_einwohnerzahl einwohnerzahl
    population metadata_population formatprice format_price currentyear currentmonth currentday numberofarticles
""")
"""Templates whose text is not in their arguments: values of the day or of other pages. They leave gaps in sentences."""

HIDDEN_PATTERN = re.compile(
    r"(?:infobox|info box|taxobox|speciesbox|navbox|sidebar|succession|s-|cite |citar |citeer |cita (?=\w)|citer |cytuj"
    r"|cite-|ficha |info/|карточка|кадр |infotable|基礎情報|信息框|정보|صندوق|معلومات|بطاقة|navigationsleiste"
    r"|palette |portail |portal[:/ ]|coor |coord |commons|wikidata|authority|uw-|pp-|pp |use \w+ (?:english|dates)"
    r"|bases |ébauche|arquivo de|stub-|proj|unreferenced|refimprove|more citations|multiple issues|orphan|cleanup"
    r"|main article|location map|taxon|automatic taxobox|external media|csd|prod|afd|user |userbox|template shortcut"
    r"|begin|start box|end box|tracklist|track listing|cast listing|football box|footballbox|#tag:ref|#invoke)"
    r"|.*(?:[- ]stub|-esbozo|-geo-stub|-lb|[- ]icon|[- ]inline|-fn|[- ]col[- ]end)$"
)

COUNTED_NAME = re.compile(r"\d{1,4}(?:er|re|e|ème|nd|nde|de|ère)|[IVXLCDM]+(?:er|re|e|ème)?(?: siècle.{0,20})?")
"""Names of templates without arguments that show their name: {{1er}}, {{XXe siècle}}."""

FUNCTIONS_WITHOUT_TEXT = read_names("""
    defaultsort displaytitle デフォルトソート 기본정렬 ترتيب_افتراضي 默认排序 預設排序 sortierung int fullurl
    localurl canonicalurl filepath #time #timel #ifexpr #babel #related #coordinates #property #statements #section
    #lst #lsth #assessment #seo ns nse protectionlevel #language #titleparts #ifexist #iferror
""")

TEMPLATE_NAMESPACES = read_names("""
    template vorlage modèle plantilla plantilha predefinição sjabloon szablon шаблон テンプレート 模板 틀 قالب
    šablona mall mal subst safesubst t msg msgnw raw
""")
