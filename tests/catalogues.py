"""Records for tests: losses as nobody would hope for them, from strangers."""

from __future__ import annotations

from typing import Any

from segloss_hub.catalog.record import Catalog, Entry

HOSTILE = (
    "[click](http://evil.example/a) ![pixel](https://evil.example/z.png)",
    "<img src=x onerror=alert(1)> </a></li><script>alert(1)</script>",
    "`code` **bold** _it_ ~~gone~~ a_b_c",
    "| cell | $x^2$ |\\| $$y$$",
    "&lt;b&gt; &copy; &#60; &amp;amp;",
    'an 3" kernel and “half a quote',
    "損失関数「半分 and （half",
    "🙂 a face, a :tada: and 𝒪(n) of Łukasiewicz’ students",
    "دالة الخسارة العربية",
    "mail a.b@evil.example, see www.evil.example, _www.evil.example, xmpp:a@b.cd",
    "https://evil.example ftp://evil.example javascript:alert(1)",
    "<!--lint disable--> [^1] [x]: http://evil.example 'title'",
    "{{ 7 * 7 }} {% raw %} {# no #}",
    "- item",
    "1. one",
    "+ plus",
    "# head",
    "> quote",
    "--- and ===",
    "===",
    "really?? yes!! ~~ ,, ··",
    "ends with a backslash\\",
    "why does it end so?",
    "soft dice of lower-case words",
    "ends with `code`",
    "nnU-Net's own",
    "a" * 300,
    "Łódź ‘quoted’ “well”, rock ’n’ roll",
)


def make_entry(name: str, *, state: str = "community", home: str = "", **card: Any) -> Entry:
    """A valid entry, or one with some fields of its card replaced."""
    package = f"segloss_plugin_{name.replace('-', '_')}"
    fields = {
        "name": name,
        "title": "A Loss",
        "summary": "Does something to every pixel.",
        "level": "pixel",
        "paper": make_paper(),
        "formula": "L=1",
        "implementation": f"{package}.loss:ALoss",
        **card,
    }
    return Entry.model_validate(
        {
            "distribution": f"segloss-plugin-{name}",
            "version": ">=1",
            "entry_point": package,
            "home": home or f"https://code.example/{name}",
            "state": state,
            "maintainer": "somebody",
            "card": fields,
        }
    )


def make_paper(**fields: Any) -> dict[str, Any]:
    """A valid paper, or one with some fields replaced."""
    given = {"title": "A Paper", "authors": ["Ada Byron"], "year": 2020, **fields}
    return given if given.keys() & {"arxiv", "doi", "url"} else {**given, "arxiv": "2001.00001"}


def hostile_catalog() -> Catalog:
    """Every hostile text in every field that is shown; papers shared, repeated and hard to cite."""
    levels, states = ("pixel", "region", "boundary", "combined"), ("community", "incubating")
    entries = [
        make_entry(
            f"h{number}",
            title=text,
            summary=text if number % 2 else f"{text[:250]} is what it is",
            level=levels[number % 4],
            state="retired" if number % 7 == 6 else states[number % 2],
            good_for=("3d",) if number % 3 else (),
            paper=make_paper(
                title=text,
                authors=[text, "Bob and Sons", "Ann, Jr."][: number % 3 + 1],
                venue=text if number % 2 else None,
                arxiv=f"2001.{number // 2:05}",  # two losses of every paper
            ),
            code={"url": f"https://code.example/(x)/{number}?a=1&lt;b", "licence": text}
            if number % 3
            else None,
        )
        for number, text in enumerate(HOSTILE)
    ]
    addresses = (
        "https://papers.example/one",
        "http://www.papers.example/one/",
        "https://papers.example//one?utm_source=x",
        "https://papers.example/index.html",
        "https://papers.example/#h0",
        "https://papers.example/{a}(b)[c]*d_e;f",
        "https://papers.example/ü/日本?q=%7B&copy;",
        "https://arxiv.org/abs/2312.05391",
    )
    entries += [
        make_entry(f"u{number}", paper=make_paper(title="Same Title", url=url))
        for number, url in enumerate(addresses)
    ]
    return Catalog(plugins=tuple(entries))
