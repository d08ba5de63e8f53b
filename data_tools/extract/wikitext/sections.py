"""List the headings of sections with references, links and literature, for the Wikipedias of each language."""

_SECTIONS = """
en: References; External links; External link; See also; Further reading; Notes; Footnotes; Bibliography; Sources
  Notes and references; References and notes; Citations; Works cited; Notes and citations; Explanatory notes
  References and sources; Sources and references; Cited sources; General references; Endnotes; Literature
de: Weblinks; Weblink; Siehe auch; Literatur; Einzelnachweise; Einzelnachweis; Quellen; Fußnoten; Anmerkungen
  Belege; Einzelnachweise und Anmerkungen; Anmerkungen und Einzelnachweise; Quellen und Einzelnachweise; Nachweise
  Referenzen; Weiterführende Literatur; Literatur und Quellen; Quellen und Literatur; Literatur und Weblinks
  Externe Links; Literatur (Auswahl); Einzelbelege; Quellenangaben; Literaturhinweise; Anmerkungen und Nachweise
  Sekundärliteratur; Einzelnachweise und Quellen; Weblinks und Quellen
fr: Références; Liens externes; Lien externe; Voir aussi; Bibliographie; Notes et références; Notes
  Articles connexes; Article connexe; Sources; Annexes; Références et notes; Pour approfondir; Liens internes
  Notes, sources et références; Notes et sources; Sources et références; Sources et bibliographie; Voir également
  Liens et références; Références bibliographiques; Ouvrages; À lire aussi; Notes et références externes; Source
  Référence; Orientation bibliographique
es: Referencias; Enlaces externos; Véase también; Bibliografía; Notas; Notas y referencias; Referencias y notas
  Fuentes; Enlace externo; Bibliografía adicional; Referencias bibliográficas; Lecturas adicionales; Citas
  Notas al pie; Bibliografía y referencias; Véase además; Lectura adicional; Bibliografía recomendada
  Vínculos externos; Otras lecturas
it: Note; Collegamenti esterni; Voci correlate; Bibliografia; Altri progetti; Riferimenti; Fonti
  Note e riferimenti; Collegamento esterno; Link esterni; Annotazioni; Note esplicative; Riferimenti bibliografici
pt: Referências; Ligações externas; Ver também; Bibliografia; Notas; Notas e referências; Referências e notas
  Fontes; Ligação externa; Links externos; Referências bibliográficas; Leitura adicional; Leituras adicionais
  Veja também; Referências gerais; Leitura complementar; Notas de rodapé; Referências e bibliografia; Citações
nl: Externe links; Externe link; Zie ook; Bronnen, noten en/of referenties; Referenties; Literatuur; Bronnen; Noten
  Voetnoten; Bron; Bronvermelding; Bronnen en referenties; Externe bronnen; Bibliografie; Verwijzingen
  Verder lezen; Noten en referenties; Bronnen en noten; Externe verwijzingen; Referentie; Geraadpleegde literatuur
pl: Przypisy; Linki zewnętrzne; Zobacz też; Bibliografia; Uwagi; Literatura; Źródła; Uwagi i przypisy
  Literatura dodatkowa; Przypisy i uwagi; Literatura uzupełniająca; Źródło; Odnośniki; Literatura przedmiotu
  Link zewnętrzny
ru: Примечания; Ссылки; См. также; Литература; Источники; Примечание; Внешние ссылки; Библиография; Сноски
  Комментарии; Источник; Список литературы; Ссылки и примечания; Примечания и ссылки; Литература и источники
  Источники и литература; Рекомендуемая литература; Смотри также; Смотрите также; Ссылки на источники
ja: 脚注; 外部リンク; 関連項目; 参考文献; 出典; 注釈; 注; 脚註; 註釈; 注釈・出典; 関連文献; 参考資料; 関連書籍
  関連リンク; 参照; 註; 脚注・出典; 出典・脚注; 参考文献・資料; 参考; 注記; 参考図書; 引用元; 注・出典; 関連資料
  引用文献; 出典・参考文献; 文献; 脚注・参考文献
zh: 参考文献; 參考文獻; 外部链接; 外部連結; 外部鏈接; 参见; 參見; 参看; 參看; 注释; 註釋; 注釋; 参考资料; 參考資料
  来源; 來源; 脚注; 腳註; 腳注; 延伸阅读; 延伸閱讀; 相关条目; 相關條目; 注解; 註解; 参考来源; 參考來源; 参考; 參考
  资料来源; 資料來源; 备注; 備註; 扩展阅读; 擴展閱讀; 引用; 相关链接; 相關連結; 参考书目; 參考書目; 外部连接; 另见
  另見; 书目; 書目; 参考文献与注释; 參考文獻與註釋; 引注; 文献; 文獻; 参考文献和注释; 注释与参考文献
  註釋與參考文獻; 參考文獻和註釋; 參考書籍; 参考书籍
ko: 각주; 외부 링크; 같이 보기; 참고 문헌; 참고문헌; 주석; 출처; 참고 자료; 참고자료; 바깥 고리; 참조; 더 읽어보기
  관련 항목; 더 읽을거리; 외부링크; 인용; 각주 및 참고 문헌; 주석 및 참고 문헌; 함께 보기; 참고; 각주와 참고 문헌
  내용주; 참조주
ar: مراجع; المراجع; وصلات خارجية; انظر أيضا; انظر أيضًا; انظر أيضاً; مصادر; المصادر; هوامش; الهوامش; ملاحظات
  مراجع ومصادر; مصادر ومراجع; المصادر والمراجع; روابط خارجية; اقرأ أيضا; اقرأ أيضًا; اقرأ أيضاً; طالع أيضا
  قراءة إضافية; قراءات إضافية; حواشي; المراجع والمصادر; الوصلات الخارجية; معلومات المراجع; فهرس المراجع; طالع أيضًا
  ملحوظات; قائمة المراجع; الحواشي; إشارات مرجعية; شاهد أيضا; شاهد أيضًا; شاهد أيضاً
uk: Примітки; Посилання; Див. також; Література; Джерела; Виноски; Бібліографія; Зовнішні посилання; Джерело
  Коментарі; Примітки та посилання; Дивись також; Джерела та література; Література та джерела
  Посилання та примітки
cs: Reference; Externí odkazy; Související články; Literatura; Odkazy; Poznámky; Zdroje; Další literatura; Poznámka
  Poznámky a reference
sk: Referencie; Iné projekty; Externé odkazy; Pozri aj; Literatúra; Zdroje; Poznámky; Poznámky a referencie; Zdroj
sv: Referenser; Externa länkar; Se även; Källor; Noter; Litteratur; Fotnoter; Källor och referenser; Externa länk
  Källa; Noter och referenser; Tryckta källor; Webbkällor; Vidare läsning; Anmärkningar; Externa referenser
  Bibliografi
no,nb,nn: Referanser; Eksterne lenker; Se også; Litteratur; Kilder; Noter; Fotnoter; Eksterne lenkjer; Sjå òg
  Kjelder; Referansar; Type referanser; Fotnotar; Bibliografi
da: Referencer; Eksterne henvisninger; Se også; Litteratur; Kilder; Noter; Henvisninger; Fodnoter; Eksterne links
  Kilde; Kilder og henvisninger; Noter og referencer; Bibliografi
fi: Lähteet; Aiheesta muualla; Katso myös; Viitteet; Kirjallisuutta; Aiheen kirjallisuutta; Huomautukset
  Kirjallisuus
hu: Jegyzetek; További információk; Források; Kapcsolódó szócikkek; Irodalom; Lásd még; Külső hivatkozások
  Hivatkozások; További irodalom; Forrás; Ajánlott irodalom; Lábjegyzetek; Felhasznált irodalom; Megjegyzések
ro: Note; Legături externe; Vezi și; Bibliografie; Referințe; Note și referințe; Surse; Lectură suplimentară
  Note bibliografice
tr: Kaynakça; Dış bağlantılar; Ayrıca bakınız; Notlar; Kaynaklar; Konuyla ilgili yayınlar; Dipnotlar; Bibliyografya
el: Παραπομπές; Εξωτερικοί σύνδεσμοι; Δείτε επίσης; Πηγές; Σημειώσεις; Βιβλιογραφία; Αναφορές; Υποσημειώσεις
  Παραπομπές σημειώσεις; Σημειώσεις και παραπομπές; Εξωτερικές συνδέσεις; Παραπομπές και σημειώσεις
he: הערות שוליים; קישורים חיצוניים; ראו גם; לקריאה נוספת; מקורות; ביאורים; ביבליוגרפיה
fa: منابع; پیوند به بیرون; جستارهای وابسته; پانویس; یادداشت‌ها; پانویس و منابع; منبع; کتاب‌شناسی; ارجاعات
  برای مطالعهٔ بیشتر; برای مطالعه بیشتر; پیوندهای بیرونی; منابع و پانویس; یادداشت
hi: सन्दर्भ; संदर्भ; बाहरी कड़ियाँ; इन्हें भी देखें; टिप्पणियाँ; टिप्पणी; स्रोत; ग्रन्थसूची; सन्दर्भ ग्रन्थ
  बाहरी कड़ियां; यह भी देखें
bn: তথ্যসূত্র; বহিঃসংযোগ; আরও দেখুন; আরো দেখুন; টীকা; গ্রন্থপঞ্জি; উৎস; আরও পড়ুন; পাদটীকা; গ্রন্থপঞ্জী
id: Referensi; Pranala luar; Lihat pula; Catatan; Catatan kaki; Daftar pustaka; Rujukan; Lihat juga
  Bacaan lanjutan; Sumber; Bibliografi; Bacaan lebih lanjut; Kutipan; Catatan dan referensi
ms: Rujukan; Pautan luar; Lihat juga; Nota; Catatan; Nota kaki; Bibliografi; Sumber; Bacaan lanjut
vi: Tham khảo; Liên kết ngoài; Xem thêm; Chú thích; Ghi chú; Thư mục; Đọc thêm; Nguồn; Chú thích và tham khảo
  Tài liệu tham khảo; Nguồn tham khảo; Tham khảo và chú thích; Tài liệu; Nguồn dẫn
th: อ้างอิง; แหล่งข้อมูลอื่น; ดูเพิ่ม; เชิงอรรถ; หมายเหตุ; บรรณานุกรม; รายการอ้างอิง; แหล่งข้อมูล; ข้อมูลอ้างอิง
  หนังสืออ่านเพิ่มเติม; อ่านเพิ่มเติม; อ่านเพิ่ม
ca: Referències; Enllaços externs; Vegeu també; Bibliografia; Notes; Notes i referències
  Bibliografia complementària; Fonts; Referències i notes; Per a més informació; Notes al peu
gl: Notas; Véxase tamén; Bibliografía; Ligazóns externas; Referencias; Outros artigos
  Outros artigos e ligazóns externas; Fontes; Notas e referencias
eu: Erreferentziak; Kanpo estekak; Ikus, gainera; Bibliografia; Oharrak; Oharrak eta erreferentziak; Iturriak
  Kanpo loturak
eo: Referencoj; Eksteraj ligiloj; Vidu ankaŭ; Notoj; Literaturo; Fontoj; Notoj kaj referencoj; Bibliografio
  Piednotoj
hr: Izvori; Vanjske poveznice; Povezani članci; Bilješke; Literatura; Izvori i bilješke; Unutarnje poveznice
  Bibliografija
bs: Reference; Vanjski linkovi; Također pogledajte; Izvori; Bilješke; Literatura; Napomene; Bibliografija
sr,sh: Референце; Спољашње везе; Види још; Литература; Извори; Напомене; Белешке; Фусноте; Reference
  Spoljašnje veze; Vidi još; Literatura; Izvori; Napomene; Spoljnje veze; Vanjske veze; Povezano
  Напомене и референце; Библиографија
sl: Sklici; Zunanje povezave; Glej tudi; Viri; Opombe; Literatura; Sklici in opombe; Opombe in sklici; Reference
bg: Източници; Външни препратки; Вижте също; Бележки; Литература; Вижте още; Библиография; Бележки и източници
  Цитирани източници
mk: Наводи; Надворешни врски; Поврзано; Извори; Литература; Белешки; Поврзани теми; Поврзани статии
be,be-tarask: Крыніцы; Спасылкі; Гл. таксама; Літаратура; Заўвагі; Зноскі; Вонкавыя спасылкі; Глядзіце таксама
  Глядзі таксама
lt: Šaltiniai; Nuorodos; Taip pat skaitykite; Išnašos; Literatūra; Pastabos; Išorinės nuorodos
lv: Atsauces; Ārējās saites; Skatīt arī; Literatūra; Piezīmes; Avoti; Piezīmes un atsauces
et: Viited; Välislingid; Vaata ka; Kirjandus; Märkused; Allikad
ka: სქოლიო; რესურსები ინტერნეტში; იხილეთ აგრეთვე; ლიტერატურა; წყაროები; გარე ბმულები; შენიშვნები; იხილე აგრეთვე
hy: Ծանոթագրություններ; Արտաքին հղումներ; Տես նաև; Գրականություն; Աղբյուրներ; Հղումներ; Տե՛ս նաև; Նշումներ
az: İstinadlar; Xarici keçidlər; Həmçinin bax; Ədəbiyyat; Mənbə; Mənbələr; İstinad; Qeydlər
kk: Дереккөздер; Сыртқы сілтемелер; Тағы қараңыз; Әдебиет; Сілтемелер; Пайдаланылған әдебиет
ta: மேற்கோள்கள்; வெளி இணைப்புகள்; இவற்றையும் பார்க்கவும்; குறிப்புகள்; உசாத்துணை; மேலும் படிக்க; மேற்கோள்
  வெளியிணைப்புகள்; இவற்றையும் காண்க
te: మూలాలు; బయటి లింకులు; ఇవి కూడా చూడండి; బయటి లంకెలు; గమనికలు; వనరులు; మూలాలు, వనరులు
ml: അവലംബം; പുറത്തേക്കുള്ള കണ്ണികൾ; ഇതും കാണുക; കുറിപ്പുകൾ; പുറം കണ്ണികൾ; ഗ്രന്ഥസൂചി; അവലംബങ്ങൾ
mr: संदर्भ; बाह्य दुवे; हे सुद्धा पहा; हेही पहा; संदर्भ आणि नोंदी; संदर्भ यादी; टिपा
ur: حوالہ جات; بیرونی روابط; مزید دیکھیے; مزید پڑھیے; کتابیات; حواشی; مزید دیکھیں
la: Notae; Nexus externi; Bibliographia; Vide etiam; Nexus interni; Fontes
"""


def find_sections_to_drop(language: str) -> tuple[str, ...]:
    """Return the titles of sections without prose in a language, by MediaWiki's code, and the English ones.

    An unsupported language has only the English ones.
    """
    own = _BY_LANGUAGE.get(language.lower(), ()) or _BY_LANGUAGE.get(language.lower().partition("-")[0], ())
    return (*own, *_BY_LANGUAGE["en"])


def _read_sections(table: str) -> dict[str, tuple[str, ...]]:
    sections: dict[str, tuple[str, ...]] = {}
    for line in table.replace("\n  ", "; ").strip().split("\n"):
        codes, _, titles = line.partition(": ")
        sections |= dict.fromkeys(codes.split(","), tuple(title.strip() for title in titles.split(";")))
    return sections


_BY_LANGUAGE = _read_sections(_SECTIONS)
