"""Texts that mean something to Markdown, HTML, GitHub or a terminal, each with a word that a test can look for."""

from __future__ import annotations

TEXTS = (
    "<script>alert('evil')</script>",
    "`` evil ` ``` @user #123",
    "@evil and #123 and GH-1 and org/repo#5",
    "https://evil.example www.evil.example evil@example.com",
    "[evil](https://evil.example) ![evil](x.png) <https://evil.example>",
    "evil | cell | \\| more \\\\| bars |",
    "|",
    "\\|evil",
    "evil\n\n# heading\n\n- list\n\n| a | b |\n| - | - |\n",
    "```\nevil\n```",
    "</code></summary></details><h1>evil",
    "&lt;evil&gt; &amp; &#64;",
    "evil **bold** _it_ ~~gone~~ $x$",
    "`",
    "```evil",
    " evil ",
    "evil`",
    "",
    " ",
    "\x1b[31mevil\u202e",
    "evil\\",
    "evil " * 2000,
    "`" * 10_000,
)
