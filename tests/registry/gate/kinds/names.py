"""Names of adapters that must not come near a path, a URL, a tag or a terminal."""

TRAVERSAL = ("", ".", "..", "../evil", "a/../../b", "/etc/passwd", "a/b", "a\\b", "C:\\evil", "~a")
EDGES = ("a..b", ".hidden", "a.", "-rf", "--help", "a-", "_a", "a--b", "a.git")
LENGTHS = ("x" * 64, "x" * 100_000)
CONTROLS = ("a b", "a\0b", "a\n", "a\r", "\t", "\x1b[2J", "a\x7f", "a\u200bb", "a\u202eb", "\ud800")
ALIKE = ("Support", "SUPPORT", "ſupport", "ａdapter", "аdapter", "é", "a\u0301", "１", "ǆ", "ß")
QUOTES = ("a@b", "a:b", "a*", "a?", "a|b", "a'b", 'a"b', "$(id)", "`id`", "a;b", "a&b", "{a}")
URLS = ("%2e%2e", "a%00", "a#b", "a?b=c", "hf://a/b", "file://a", "a=b", "a+b")

NAMES = [*TRAVERSAL, *EDGES, *LENGTHS, *CONTROLS, *ALIKE, *QUOTES, *URLS]
