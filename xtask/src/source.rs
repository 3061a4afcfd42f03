//! Rust source as far as these chores need it: tokens without comments and literals, and lines that count.

/// A word or a punctuation character, with its line from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    pub(crate) line: usize,
}

/// Splits source into words and single punctuation characters (`::` is one token); comments, strings and
/// characters are left out.
pub(crate) fn tokens(source: &str) -> Vec<Token<'_>> {
    let bytes = source.as_bytes();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let rest = &source[at..];
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest) {
            length
        } else if rest.starts_with('"') {
            quoted(rest, '"')
        } else if is_character_literal(rest) {
            quoted(rest, '\'')
        } else {
            let length = token_length(rest);
            let text = &rest[..length];
            if !text.trim().is_empty() {
                found.push(Token { text, line });
            }
            length
        };
        line += bytes[at..at + length].iter().filter(|byte| **byte == b'\n').count();
        at += length;
    }
    found
}

fn token_length(rest: &str) -> usize {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    if rest.starts_with("::") {
        return 2;
    }
    match rest.find(|c| !is_word(c)) {
        Some(0) => rest.chars().next().map_or(1, char::len_utf8),
        Some(length) => length,
        None => rest.len(),
    }
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest.as_bytes()[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.as_bytes()[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of a raw string that starts here, if one does.
fn raw_string(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let content = body[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = content.find(&close).map_or(content.len(), |end| end + close.len());
    Some(rest.len() - content.len() + end)
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    rest.len()
}

/// Whether this is `'x'` or `'\n'` and not a lifetime.
fn is_character_literal(rest: &str) -> bool {
    let mut chars = rest.chars();
    if chars.next() != Some('\'') {
        return false;
    }
    match chars.next() {
        Some('\\') => true,
        Some(_) => chars.next() == Some('\''),
        None => false,
    }
}

/// How many lines stand before a file's tests: what follows its `#[cfg(test)]` in front of a module with a body.
pub(crate) fn tests_begin(source: &str) -> usize {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let opens_tests = |at: &usize| {
        lines[*at] == "#[cfg(test)]"
            && lines.get(at + 1).is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'))
    };
    (0..lines.len()).find(opens_tests).unwrap_or(lines.len())
}

/// Lines that are neither blank nor only a comment: (code, tests).
pub(crate) fn count_lines(source: &str) -> (usize, usize) {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let tests_at = tests_begin(source);
    let counts = |line: &&&str| !line.is_empty() && !line.starts_with("//");
    (lines[..tests_at].iter().filter(counts).count(), lines[tests_at..].iter().filter(counts).count())
}

/// Functions with their first line and how many lines they have, up to their closing brace.
pub(crate) fn functions(source: &str) -> Vec<(String, usize, usize)> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let Some(name) = tokens.get(at + 1).filter(|name| token.text == "fn" && name.text != "(") else { continue };
        if let Some(end) = body_end(&tokens[at..]) {
            found.push((name.text.to_owned(), token.line, end - token.line + 1));
        }
    }
    found
}

/// The line of the brace that closes the function that begins here; none if it has no body, or is a type.
fn body_end(tokens: &[Token<'_>]) -> Option<usize> {
    let (mut braces, mut brackets) = (0_usize, 0_usize);
    for token in tokens {
        match token.text {
            "(" | "[" if braces == 0 => brackets += 1,
            ")" | "]" if braces == 0 => brackets = brackets.checked_sub(1)?,
            ";" if braces == 0 && brackets == 0 => return None,
            "{" => braces += 1,
            "}" if braces == 1 => return Some(token.line),
            "}" => braces = braces.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<&str> {
        tokens(source).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_literals_are_no_tokens() {
        assert_eq!(words("use a::b; // HashMap\n/* x /* y */ z */ c"), ["use", "a", "::", "b", ";", "c"]);
        assert_eq!(
            words(r##"let x = "rand \" y"; r#"serde"#; br"k"; 'q'; '\''; z"##),
            ["let", "x", "=", ";", ";", ";", ";", ";", "z"]
        );
        assert_eq!(
            words("fn f<'a>(x: &'a str)"),
            ["fn", "f", "<", "'", "a", ">", "(", "x", ":", "&", "'", "a", "str", ")"]
        );
        assert_eq!(tokens("a\n\"\n\"\nb")[1], Token { text: "b", line: 4 });
        assert_eq!(words("/* open"), Vec::<&str>::new());
        assert_eq!(words("\"open"), Vec::<&str>::new());
    }

    #[test]
    fn functions_are_measured_to_their_closing_brace() {
        let source =
            "fn a(x: [u8; 2]) -> fn(u8) {\n    if x {\n    }\n}\ntrait T {\n    fn b(&self);\n    fn c() {}\n}\n";
        assert_eq!(functions(source), [("a".to_owned(), 1, 4), ("c".to_owned(), 7, 1)]);
    }

    #[test]
    fn lines_of_code_and_of_tests_are_told_apart() {
        let source = "//! Doc.\n\nfn a() {\n    // why\n    b();\n}\n\n#[cfg(test)]\nmod tests {\n    #[test]\n    fn t() {}\n}\n";
        assert_eq!(count_lines(source), (3, 5));
        assert_eq!(count_lines("#[cfg(test)]\nuse x;\nfn a() {}\n"), (3, 0));
    }
}
