"""Recognize the links of a wiki page to files and categories, in the language of the wiki.

A dump lists one name per namespace. Pages also use older and translated ones (`Bild:` for `Datei:`), which are built
into MediaWiki for each language.
"""

import re

CANONICAL_PREFIXES = ("file", "image", "media", "category")
"""Names that every wiki accepts in addition to its own."""

_PICTURE_FILE = re.compile(
    r"\.(?:jpe?g|jpe|png|gif|svg|webp|tiff?|xcf|bmp|djvu|pdf|og[gavm]|opus|flac|mp[34]|mpe?g|wav|webm|midi?|stl|tgf)",
    re.IGNORECASE,
)
_SIZE = re.compile(
    r"(?:x?\d{1,4}|\d{1,4}x\d{1,4}) ?(?:px|пкс|п|פיקס|بك|عن|پیکسل|픽셀|ピクセル|像素)(?:px)?", re.IGNORECASE
)


def find_link_prefixes(language: str, own_names: tuple[str, ...] = ()) -> frozenset[str]:
    """Return the case-folded names of the namespaces whose links have no text: files, media and categories.

    Args:
        language: of the wiki, by MediaWiki's code; empty adds the names of no language.
        own_names: names from the dump.
    """
    names = _NAMES.get(language.lower(), ()) or _NAMES.get(language.lower().partition("-")[0], ())
    return frozenset((*CANONICAL_PREFIXES, *names, *map(fold_prefix, own_names)))


def fold_prefix(prefix: str) -> str:
    """Return a namespace's name in the form in which MediaWiki compares names."""
    return " ".join(prefix.replace("_", " ").split()).casefold()


def looks_like_picture(target: str, options: list[str]) -> bool:
    """Return whether a link to an unknown namespace is a picture, from its file name or its options.

    Args:
        options: the parts between the target and the last bar.
    """
    if _PICTURE_FILE.search(target[-6:]):
        return True
    return any(word in _THUMBNAIL_WORDS or _SIZE.fullmatch(word) for word in (o.strip().casefold() for o in options))


def _read_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _read_names(table: str) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for line in table.replace("\n  ", " ").strip().split("\n"):
        codes, *words = line.split()
        names |= dict.fromkeys(codes.split(","), tuple(word.replace("_", " ") for word in words))
    return names


# The names of the picture option "thumb" in the languages of MediaWiki 1.39, without those that are common words.
_THUMBNAIL_WORDS = _read_words("""
bawd bélyeg bélyegkép daqsminuri doem duimnael duum ewin_bawd jempol jmpl küçük küçükresim mały mini miniatiūra
miniatur miniatura miniaturadaimagem miniaturadaimaxe miniaturadeimagen miniatuur miniatyr miniatyur miniatűr
minijatura minuri mionsamhail mân-lun nhỏ nobaý náhled náhľad náhľadobrázka pamje parapamje pienois pienoiskuva
pisi pisipilt qıckek resmoqıckek rikchacha skeusennik sličica thumb thumbnail umanjeno vignette vinheta
μικρογραφία μινιατούρα жима жимо значак кенжешка къаддæр къаддæргонд мини мини-слика миниатюра міні мініатюра
мініяцюра нобай ойуучаан умањено մինի ממוזער קליין انگشتدان انگشتی بندانگشتی بټنوک تصغير تصغیر مصغر نوباي وێنۆک
ܙܥܘܪܬܐ अंगूठा अंगूठाकार अङ्गुष्ठ अङ्गुष्ठचित्रम् इवलेसे लघुचित्रम् लघुत्तम सङ्कुचितचित्र सङ्कुचितचित्रम् থাম্ব
থাম্বনেইল ലഘു ലഘുചിത്രം მინი მინიასლი მინიატიურა ცეროდენა រូបតូច រូបភាពតូច サムネイル 縮圖 缩略图 섬네일 썸네일 축소판
""")

# Names and aliases of the namespaces Media, File and Category in the languages of MediaWiki 1.39, with those of the
# language that each falls back on, without the English ones.
_NAMES = _read_names("""
ab акатегориа амедиа афаил изображение категория медиа файл
abs,bbc,bbc-latn,btm,bug,id,min,nia berkas gambar kategori
ace alat berkas beureukaih gambar kategori kawan
ady,ady-cyrl медиа
aeb,aeb-arab,ar,arq,arz تصنيف صورة ملف ميديا وسائط
af beeld kategorie lêer
ak nkyekyem
aln,sq figura kategori kategoria skeda
alt,av,gld,koi,krc,kum,kv,lez,ru,sjd,sty изображение категория медиа файл
am መደብ ስዕል ፋይል
ami faylo kasasiwasiw mitiya 分類 圖像 圖片 媒體 媒體文件 媒體檔案 文件 檔案
an archivo categoría imachen imagen medio
ang biliþ flocc ymele
anp,bh,bho,hi,ne चित्र मीडिया श्रेणी
arc ܠܦܦܐ ܡܝܕܝܐ ܣܕܪܐ
arn,ay,cbk-zam,es,es-formal,guc archivo categoría imagen medio
ary تصنيف صورة فيشي ملف ميديا وسائط
as चित्र श्रेणी চিত্র চিত্ৰ মাধ্যম শ্রেণী শ্ৰেণী
ast archivo archivu categoría ficheru imagen imaxe imaxen medio medios
atj catégorie fichier média natisinahikaniwoc tipanictawin tipatcimoctakewin
avk catégorie ewava fichier iyeltak kanaca loma mamind média
awa चित्र फाइल मीडिया श्रेणी
az fayl kateqoriya mediya şəkil
azb بؤلمه تصویر رده رسانه رسانه‌ای فایل مدیا پرونده
ba изображение категория медиа рәсем төркөм файл
ban,ban-bali,su berkas gambar kategori média
bar,de,de-at,de-ch,de-formal,frr,gsw,hrx,nds,pdt,sli bild datei kategorie medium
bcc تصویر دسته رده رسانه رسانه‌ای عکس مدیا پرونده
bci,bm,ff,fr,frc,kbp,ln,pcd,ses,sg,ty catégorie fichier média
bcl kategorya ladawan medio
be выява катэгорыя мультымедыя файл
be-tarask выява катэгорыя мультымедыя мэдыя файл
bg картинка категория медия файл
bgn اکس تصویر تهر رده رسانه رسانه‌ای رسانگ مدیا میڈیا ورق پرونده
bjn barakas berkas gambar kategori tumbung
blk ကဏ္ဍ ဖိုင် ဖုဲင် မီဒီယာ
bn চিত্র বিষয়শ্রেণী মিডিয়া
bpy চিত্র ছবি থাক বিষয়শ্রেণী মিডিয়া
bqi,fa,lki,luz تصویر رده رسانه رسانه‌ای مدیا پرونده
br restr rummad skeudenn
bs,sh,sh-latn datoteka kategorija medija mediji slika
bxr изображение категори категория меди медиа файл
ca,oc categoria fichièr fitxer imatge mèdia
cdo,nan lūi-pia̍t mûi-thé tóng-àn 分類 媒體 文件
ce изображение кадегар категори категория медиа медйа сурт тоба файл хlум
ceb imahen kategoriya medya payl
ch katigoria litratu
ckb میدیا پۆل پەڕگە
co,egl,eml,it,lld,rgn,roa-tara categoria immagine
crh,crh-latn fayl kategoriya resim категория медиа ресим
crh-cyrl kategoriya resim изображение категория медиа ресим файл
cs,sk kategorie kategória média médiá obrázok soubor súbor
csb grafika kategoria kategòrëjô plik òbrôzk
cu ви́дъ видъ дѣло катигорїꙗ катигорї срѣдьства
cv изображение категори категория медиа файл ӳкерчĕк
cy categori delwedd
da,jut billede fil kategori
dag lahabali_kɔligu miidiya pubu
din apamduööt bekätakthook ciɛl
diq dosya kategori kategoriye medya
dsb,hsb dataja kategorija medija wobraz
dtp,ms fail imej kategori
dty चित्र मिडिया मीडिया श्रेणी
dv މީޑިއާ ފައިލު ފައިލް ޤިސްމު
el αρχείο εικόνα κατηγορία μέσο μέσον
eo aŭdvidaĵo dosiero kategorio
et,liv fail kategooria meedia pilt
eu fitxategi irudi kategoria
ext archivo archivu categoria categoría imagen medio mediu
fat fael nkyekyεmu
fi,fit,krl,vot kuva luokka tiedosto
fo bólkur miðil mynd
fon akpaxwé catégorie fichier média wékpo yɛwliɖonuji
frp catègorie catégorie fichier fichiér mèdia média émâge
fur categoria categorie figure immagine
fy kategory ofbyld
ga catagóir meán rang íomhá
gag dosya dosye kategori kategoriya mediya medya ortam resim
gan,gan-hans,gan-hant 分類 媒體 文檔
gcr catégorie fichier fiché katégori média médja
gd faidhle meadhan roinn-seòrsa
gl arquivo categoria categoría ficheiro imagem imaxe multimédia mídia
glk تصویر جرگه رده رسانه رسانه‌ای فاىل مديا مدیا پرونده
gn archivo categoría imagen medio ta'ãnga ñemohenda
gom,gom-deva चित्र फायल माध्यम मिडिया मीडिया वर्ग श्रेणी
gor berkas dalala gambar kategori
got 𐌷𐌰𐌽𐍃𐌰 𐍆𐌴𐌹𐌻𐌰
gu ચિત્ર દ્રશ્ય-શ્રાવ્ય_(મિડિયા) શ્રેણી
guw adà wepo
gv coadan meanyn ronney
hak,lzh 分類 圖像 圖片 媒體 媒體文件 媒體檔案 文件 檔案
haw kiʻi māhele pāpaho waihona
he מדיה קובץ קטגוריה תמונה
hif,hif-latn saadhan vibhag
hr datoteka kategorija mediji slika
hsn,ii,wuu,za 分类 图像 图片 媒体 媒体文件 媒体档案 文件 档案
ht catégorie fichier fichye imaj kategori medya média
hu,hu-formal fájl kategória kép média
hy կատեգորիա մեդիա պատկեր
hyw կատեգորիա մեդիա պատկեր ստորոգութիւն
ia categoria imagine multimedia
ie categorie
ig midia nká usòrò ákwúkwó_orünotu ébéonọr òtù
ilo kategoria midia papeles
inh изображение категория медиа оагӏат файл
io arkivo aŭdvidaĵo dosiero imajo kategorio
is flokkur miðill mynd
ja カテゴリ ファイル メディア 画像
jbo datnyvei klesi velsku
jv,map-bms barkas berkas gambar kategori medhia médhia
ka,xmf კატეგორია მედია სურათი ფაილი
kaa kategoriya sanat su'wret swret taspa санат сурет таспа تاسپا سانات سۋرەت
kab,zgh catégorie fichier média taggayt tugna
kbd,kbd-cyrl категориэ категория медиа файл
kcg fail sa
kea arquivo categoria ficheiro fixeru imagem katiguria multimédia mídia
kg fisye kalasi
khw,ur تصویر زریعہ زمرہ فائل ملف میڈیا وسیط
kiu dosya dosye kategori kategoriye medya ortam resim
kjp,ksw,my ကဏ္ဍ ဖိုင် မီဒီယာ
kk,kk-arab,kk-cn,kk-cyrl,kk-kz,kk-latn,kk-tr sanat swret taspa санат сурет таспа تاسپا سانات سۋرەت
kl billede fiileq fil kategori sumut_atassuseq
km ចំណាត់ក្រុម ចំណាត់ថ្នាក់ក្រុម ចំនាត់ថ្នាក់ក្រុម មីឌា មេឌា រូបភាព ឯកសារ
kn ಚಿತ್ರ ಮೀಡಿಯ ವರ್ಗ
ko,ko-kp 그림 미디어 분류 파일
ks,ks-arab زٲژ فَیِل میڈیا
ks-deva ज़ॉज़ फ़ाइल मीडिया
ksh beld belld bild datei kategorie katejori kattejori medie medium meedije meedijum saachjrop saachjropp
  saachjrupp sachjrop
ku,ku-arab,ku-latn kategorî medya wêne
kw class klass restren
ky категория медиа файл
la categoria fasciculus imago
lad archivo categoría dossia dosya imagen kateggoría katēggoría meddia medio medya
lb bild datei fichier kategorie medium
lbe изображение категория медиа сурат файл
lfn categoria fix
li aafbeilding afbeelding bestand categorie kategorie plaetje
lij categoria categorîa immaggine immagine
lmo archivi categoria categorìa categuria figura immagine
lo ສື່ ສື່ອ ຮູບ ໝວດ
lrc أسگ تصویر جانیا دأسە رده رسانه رسانه‌ای مدیا پرونده ڤارئسگأر
lt kategorija medija vaizdas
ltg attēls fails kategoreja kategorija medeja
lv attēls kategorija
lzz dosya kategori kʼatʼegori medya ortam resim
mad berkas bhengkek bhângsa gambar kategori mèḍia
mai चित्र फाइल मीडिया मेडिया श्रेणी
mdf,myv артовкс изображение категорие категория медиа медия няйф
mg catégorie fichier média rakitra sary sokajy
mhr,mrj категори категорий категория медиа файл
mk,ruq-cyrl категорија медиум медија податотека слика
ml ചി ചിത്രം പ്ര പ്രമാണം മീഡിയ വ വി വിഭാഗം വർഗ്ഗം
mn ангилал зураг медиа файл
mni ꯃꯆꯥꯈꯥꯏꯕ ꯃꯦꯗꯤꯌꯥ ꯐꯥꯏꯜ
mnw ကဏ္ဍ ဖိုင် မီဒီယာ မဳဒဳယာ ဝှာင်
mo,ro,rup,ruq,ruq-latn categorie fişier fișier imagine
mr चित्र मिडिया वर्ग
mrh faih midia pho
ms-arab fail imej kategori فاءيل ميديا کاتݢوري
mt kategorija medja midja stampa
mwl arquivo catadorie categoria fexeiro ficheiro imagem multimédia mídia
mzn تصویر رج رده رسانه رسانه‌ای مدیا مه‌دیا پرونده
nah archivo categoría imagen medio mēdiatl neneuhcāyōtl īxiptli
nap categoria categurìa fiùra immagine
nb bilde fil kategori medium
nds-nl afbeelding bestaand bestand categorie kategorie kattegerie ofbeelding
new किपा पुचः माध्यम
nl,nl-informal afbeelding bestand categorie
nn fil filpeikar kategori
nod ᨼᩱᩃ᩺ ᩈᩨ᩵ ᩉ᩠ᨾ᩠ᩅᨯᩉ᩠ᨾᩪ᩵
nqo ߞߐߕߐ߮ ߟߊߛߋߢߊߥߙߍ ߦߌߟߡߊ
nso seswantšho setensele
nv eʼelyaaígíí tʼááłáhági_átʼéego
olo failu kategourii kuva luokka medii tiedosto
or ଫାଇଲ ବିଭାଗ ମାଧ୍ୟମ ଶ୍ରେଣୀ
os изображение категори категория медиа ныв файл
pa ਤਸਵੀਰ ਮੀਡੀਆ ਸ਼੍ਰੇਣੀ
pcm katigori
pdc abdeeling bild datei feil kategorie medium
pfl bild dadai datei kadegorie kategorie medium sachgrubb
pi पटिमा मीडिया विभाग
pl grafika kategoria plik
pms categoria categorìa figura immagine
pnb تصویر فائل میڈیا گٹھ
pnt αρχείο αρχείον εικόνα εικόναν κατηγορία κατηγορίαν μέσο μέσον
prg kategōrija mēdijai zūrbrukis
ps انځور دوتنه رسنۍ وېشنيزه
pt,pt-br,vmw arquivo categoria ficheiro imagem multimédia mídia
pwn mitiya pinapapilipiliqan sineqetj_a_vecik 分類 圖像 圖片 媒體 媒體文件 媒體檔案 文件 檔案
qu,qug katiguriya midya rikcha samiyachiy
rm categoria datoteca multimedia
rmy categorie chitro fişier fișier imagine mediya shopni
rn dosiye umuce
rsk kategorija medija slika датотека категорија катеґория медий медиј медија слика файл
rue зображення изображение категория категорія катеґорія медиа медіа файл
rw dosiye ikiciro itangazamakuru
sa चित्र चित्रं चित्रम् माध्यम माध्यमम् मीडिया वर्गः श्रेणी सञ्चिका
sah билэ изображение категория медиа миэдьийэ ойуу файл
sat ᱛᱷᱚᱠ ᱢᱤᱰᱤᱭᱟ ᱨᱮᱫ
sc categoria immàgini
scn categoria catigurìa immagine mmàggini mèdia
sd ذريعات زمرو عڪس فائل
sdc categoria categuria immagina immagine
se,se-fi,se-no,se-se bilde fiila fil kategori kategoriija medium
sgs abruozdielis kategorija kateguorėjė medija medėjė vaizdas
shi afaylu midya taggayt
shn ပိူင်ထၢၼ်ႈ သိုဝ်ႇၶၢဝ်ႇ ၾၢႆႇ
shy,shy-latn afaylu alɣagdud catégorie fichier média taggayt
si ගොනුව ප්‍රවර්ගය මාධ්‍යය රූපය
skr,skr-arab تصویر زریعہ زمرہ فائل ملف میڈیا وسیط ونکی
sl datoteka kategorija slika
smn kuva luokka tiedosto tiätuvuárkká
sr,sr-ec kategorija medija slika датотека категорија медиј медија слика
sr-el datoteka kategorija medij medija slika категорија медија слика
srn afbeelding bestand categorie gefre guru
sro categoria documentu immagine mèdius
stq bielde bild datei kategorie medium
sv bild fil kategori
sw faili jamii picha
syl ꠇꠦꠐꠣꠉꠞꠤ ꠚꠣꠁꠟ ꠝꠤꠒꠤꠀ
szl grafika kategoria kategoryjo plik
szy kakuniza myiti tangan 分類 圖像 圖片 媒體 媒體文件 媒體檔案 文件 檔案
ta ஊடகம் பகுப்பு படிமம்
tay biru'_na_zayzyuwaw biru’_na_zayzyuwaw zyuwaw_na 分類 圖像 圖片 媒體 媒體文件 媒體檔案 文件 檔案
tcy ಚಿತ್ರ ಫೈಲ್ ಮಾದ್ಯಮೊ ಮೀಡಿಯ ವರ್ಗ ವರ್ಗೊ
te దస్త్రం ఫైలు బొమ్మ మీడియా వర్గం
tet arquivo categoria ficheiro imagem imajen kategoria kategoría multimédia mídia
tg,tg-cyrl,tg-latn акс гурӯҳ медиа
th ภาพ สื่อ หมวดหมู่ ไฟล์
ti መደብ ሜድያ ፋይል
tk faýl kategoriýa
tl kategorya kaurian midya talaksan
tly fajl medja tispir
tn karolo pego setshwantsho
tpi fail grup
tr dosya kategori medya ortam resim
trv meyti patas_bntasan snakun 分類 圖像 圖片 媒體 媒體文件 媒體檔案 文件 檔案
tt,tt-cyrl räsem törkem изображение категория медиа рәсем төркем файл
tt-latn fayl räsem törkem
tw nkyekyεmu
tyv аңгылал изображение категория медиа файл
udm изображение категория медиа суред файл
ug,ug-arab تۈر ھۆججەت ۋاسىتە
uk зображення изображение категория категорія медиа медіа файл
uz fayl kategoriya mediya tasvir turkum
vec categoria immagine imàjine mèdia
vep fail kategooria kategorii meedia pilt
vi hình phương_tiện thể_loại tập_tin
vls afbeelding bestand categorie ofbeeldienge
vmf bild datei dôdaj gadâgorii kategorie medium
vo klad magod nünamakanäd ragiv
vro fail kategooria katõgooria meedia meediä pilt
wa categoreye catégorie fichier imådje média
war fayl kaarangay medya paypay
wls catégorie faʻahiga fichier koga média pāki
wo catégorie dencukaay fichier média wàll xibaarukaay
xal аһар боомг зург изображение категория медиа файл янз әәшл
yi בילד טעקע מדיה מעדיע קאַטעגאָריע קאטעגאריע קובץ קטגוריה תמונה
yo amóhùnmáwòrán fáìlì àwòrán ẹ̀ka
yue 分类 分類 图 图像 圖 圖像 媒体 媒體 文件 档 档案 檔 檔案 类 類
zea afbeelding bestand categorie plaetje
zh 分类 分類 图像 图片 圖像 圖片 媒体 媒体文件 媒体档案 媒體 媒體文件 媒體檔案 文件 档案 檔案
""")
