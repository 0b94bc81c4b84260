"""Makes recipients.csv, the same each time: python make_recipients.py > recipients.csv.

Nobody in it exists: all domains are reserved (RFC 2606), and the names are put together by chance.
"""

from __future__ import annotations

import csv
import random
import sys
import unicodedata
from collections.abc import Iterator

from mail_server import GONE, GREYLISTED

FIRST_NAMES = """
    Ada Agnieszka Ahmet Aïcha Álvaro Amara Anaïs Andrzej Anke Åsa Aurélie Ayşe Bartłomiej Beatriz Björn Božena Brigitte
    Bronagh Carmen Céline Chidi Chloé Dagný Daniela Dimitri Đorđe Dorota Dušan Eleni Elif Émile Eszter Fatma Fernando
    Fiona François Gábor Gintarė Giulia Grażyna Gustavo Hana Hélène Hồng Ida Ifeoma Ilse Inês İbrahim Jānis Jean-Luc
    João Jörg José Jürgen Katarzyna Kofi Léa Liam Ljubica Lőrinc Łukasz Małgorzata Marco María Marija Mehmet Mihály
    Moana Naledi Ngozi Niamh Noémie Oğuz Olga Ólafur Oluwaseun Øystein Paulo Pilar Quỳnh Rasmus Renée Ruairí Šárka
    Siân Silvia Søren Stanisław Tadeáš Tereza Thandiwe Thị Tiago Tomás Ülle Uxía Vít Wanjiru Wiebke Xavier Yannick
    Yetunde Zdeněk Žofia Zoë Zsófia
"""
LAST_NAMES = """
    Ångström Açıkgöz Adebayo Andersson Baumgärtner Bélanger Bianchi Błaszczyk Börjesson Botha Brânză Çelik Černý
    Chukwu Ćwik D'Angelo Da-Silva Díaz Dlamini Dvořák Erdoğdu Fernández Fjeldsøe Garnier Gauß Gómez Großmann Grünwald
    Gutiérrez Haugen Horváth Ibáñez Ioannou Jääskeläinen Jovanović Kamau Kılıç Kovács Kowalczyk Krüger Lefèvre Lindqvist
    Lončar Löwe Lukšić Mac-Giolla Martínez Mbeki Mészáros Mikkelsen Moreau Müller Muñoz Nagy Ní-Bhriain Nguyễn Nowak
    Núñez O'Brien O'Neill Ødegård Okafor Öztürk Papadaki Park Pérez Petrauskas Pham Pokorná Popović Quintero Řezníček
    Rodríguez Rossi Saint-Pierre Sæther Šimůnek Škvorecký Sørensen Strauß Szabó Takács Tamm Țepeș Þorsteinsson Toivonen
    Trần Ünal Vâlcea Van-der-Meer Villeneuve Völker Weiß Wójcik Yıldız Zając Zeman Žižka
"""
OTHER_SCRIPTS = {
    "Анна Ковальчук": "anna.kovalchuk",
    "Дмитрий Соколов": "dmitry.sokolov",
    "Георги Иванов": "georgi.ivanov",
    "Ελένη Παπαδοπούλου": "eleni.papadopoulou",
    "田中 陽子": "yoko.tanaka",
    "佐藤 健": "ken.sato",
    "李 娜": "na.li",
    "王 小明": "xiaoming.wang",
    "김 민준": "minjun.kim",
    "דוד לוי": "david.levi",
    "ליאור כהן": "lior.cohen",
    "فاطمة الزهراء": "fatima.alzahra",
    "يوسف حداد": "youssef.haddad",
    "प्रिया शर्मा": "priya.sharma",
    "நிலா குமார்": "nila.kumar",
    "สมชาย ใจดี": "somchai.jaidee",
    "ნინო ბერიძე": "nino.beridze",
    "Արամ Պետրոսյան": "aram.petrosyan",
}
TITLES = ["{}, PhD", "{}, M.D.", "Dr. {}", "Prof. {}", "{} (Ltd.)"]
DOMAINS = ["example.org", "mail.example.org", "alumni.example.org", "post.test", "inbox.test", "office.invalid"]
SPELLED = str.maketrans({"ß": "ss", "ø": "o", "æ": "ae", "ł": "l", "đ": "d", "þ": "th", "ı": "i", "ð": "d", "'": None})


def make_recipients(count: int, gone: int, greylisted: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield names and addresses, no address twice; some are at the domains that the mail server has rules for."""
    chance = random.Random(seed)
    domains = [GONE] * gone + [GREYLISTED] * greylisted
    domains += [chance.choice(DOMAINS) for _ in range(count - len(domains))]
    chance.shuffle(domains)

    seen: set[str] = set()
    for domain in domains:
        name, local = choose_name(chance)
        address = f"{local}@{domain}"
        while address in seen:
            address = f"{local}{chance.randrange(1950, 2010)}@{domain}"
        seen.add(address)
        yield name, address


def choose_name(chance: random.Random) -> tuple[str, str]:
    """Return a name, and how it is written in an address."""
    if chance.random() < 0.04:
        return chance.choice(list(OTHER_SCRIPTS.items()))
    first, last = pick(chance, FIRST_NAMES), pick(chance, LAST_NAMES)
    name = f"{first} {last}"
    local = f"{spell(first)}.{spell(last)}"
    if chance.random() < 0.03:
        name = chance.choice(TITLES).format(name)
    return name, local


def pick(chance: random.Random, names: str) -> str:
    """Return a name; some that are written with hyphens in the lists above have spaces in them."""
    name = chance.choice(names.split())
    return name.replace("-", " ") if name.startswith(("Da-", "Van-", "Mac-", "Ní-")) else name


def spell(name: str) -> str:
    """Return a name in the letters of plain addresses: ``o.kucuk`` for Ö. Küçük."""
    letters = unicodedata.normalize("NFKD", name.lower().translate(SPELLED))
    return "".join(letter for letter in letters if letter.isascii() and letter not in " -")


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    # The csv module would end lines with \r\n, which Git and editors trip over.
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["name", "address"])
    writer.writerows(make_recipients(count=6000, gone=7, greylisted=40, seed=1))
