//! `public-api`: what each library offers, as text that is checked in, so that no change of it goes unseen.
//!
//! It is read off the pages that rustdoc writes: the only stable place where all that a crate offers stands resolved, with
//! what it exports from other crates, and with what is derived. Each page has the item's declaration; below it are its
//! inherent methods, the traits that it implements, and whether it is `Send` and `Sync`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cargo::{cargo, root, succeed};

/// The libraries, with the arguments that choose what of them is documented. Each row is a run of its own: of two crates
/// in one run, one would get the features that the other wants of it.
const RUNS: &[(&[&str], &[&str])] = &[
    (&["quorate", "quorate-core", "quorate-wire", "quorate-wal", "quorate-net"], &["--features", "quorate/prometheus"]),
    (&["quorate-testkit", "quorate-sim"], &[]),
];

/// Where the listings are.
const LISTINGS: &str = "docs/api";

/// Compares the listings with what there is, or writes them with `--write`.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let is_written = match args {
        [] => false,
        [one] if one == "--write" => true,
        _ => return Err("usage: cargo xtask public-api [--write]".to_owned()),
    };
    // A place of its own: elsewhere pages of the same crates lie that were made with other features.
    let target = root().join("target/api");
    let (mut changed, mut items) = (0, 0);
    for (packages, options) in RUNS {
        let mut command = cargo();
        command.args(["doc", "--quiet", "--locked", "--no-deps", "--target-dir"]).arg(&target).args(*options);
        command.args(packages.iter().flat_map(|package| ["--package", package])).current_dir(root());
        succeed(&mut command, || "cargo doc failed".to_owned())?;
        for package in *packages {
            let (listing, count) = listing(&target.join("doc"), &package.replace('-', "_"))?;
            items += count;
            let file = root().join(LISTINGS).join(format!("{package}.txt"));
            if is_written {
                write(&file, &listing)?;
            } else if !is_same(package, &fs::read_to_string(&file).unwrap_or_default(), &listing) {
                changed += 1;
            }
        }
    }
    match changed {
        0 => {
            println!("public-api: {items} items, {} in {LISTINGS}", if is_written { "written" } else { "as" });
            Ok(())
        }
        _ => Err(format!(
            "the public API of {changed} crates is not that of {LISTINGS}: if it should change, run `cargo xtask public-api --write`, \
             look at the difference, and say in CHANGELOG.md what users can notice (pages are read as rustdoc 1.95 writes them)"
        )),
    }
}

fn write(file: &Path, listing: &str) -> Result<(), String> {
    let cannot = |error| format!("cannot write {}: {error}", file.display());
    fs::create_dir_all(file.parent().unwrap_or(Path::new("."))).map_err(cannot)?;
    fs::write(file, listing).map_err(cannot)
}

/// Prints the lines that came and went, each with its item.
fn is_same(package: &str, before: &str, after: &str) -> bool {
    let (before, after) = (with_items(before), with_items(after));
    for (sign, one, other) in [('-', &before, &after), ('+', &after, &before)] {
        for (item, line) in one.iter().filter(|line| !other.contains(line)) {
            eprintln!("{package}: {sign} {item}: {line}");
        }
    }
    before == after
}

/// The lines of a listing, each with the item it belongs to: the last line before it that is not indented.
fn with_items(listing: &str) -> Vec<(&str, &str)> {
    let mut item = "";
    let mut lines = Vec::new();
    for line in listing.lines() {
        if !line.starts_with(' ') {
            item = line;
        }
        lines.push((item, line.trim_start()));
    }
    lines
}

/// The listing of one crate, and how many items it has.
fn listing(pages: &Path, name: &str) -> Result<(String, usize), String> {
    let directory = pages.join(name);
    let all = read(&directory.join("all.html"))?;
    let mut items: Vec<&str> = hrefs(after(&all, "id=\"main-content\"")).collect();
    items.retain(|href| href.ends_with(".html") && !href.contains("//") && !href.starts_with('#'));
    items.sort_unstable_by_key(|href| path_of(href));
    items.dedup();
    let mut text = format!("The public API of {name}, written by `cargo xtask public-api --write`.\n");
    exports(&directory, name, &mut text)?;
    for href in &items {
        let (kind, path) = path_of(href).1;
        let _ = write!(text, "\n{kind} {name}::{path}\n");
        page(&read(&directory.join(href))?, &mut text);
    }
    Ok((text, items.len()))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// `a/struct.B.html` is the struct `a::B`; sorted by path, modules' own items first.
fn path_of(href: &str) -> (String, (&str, String)) {
    let (folders, file) = href.rsplit_once('/').unwrap_or(("", href));
    let mut parts = file.split('.');
    let (kind, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let folders = folders.split('/').filter(|folder| !folder.is_empty());
    let path = folders.chain([name]).collect::<Vec<_>>().join("::");
    (path.clone(), (kind, path))
}

/// What modules export by name only: other crates.
fn exports(directory: &Path, path: &str, text: &mut String) -> Result<(), String> {
    let index = read(&directory.join("index.html"))?;
    for export in index.split("<dt id=\"reexport.").skip(1) {
        let _ = writeln!(text, "\nexport {path}: {}", plain(between(export, "<code>", "</code>")));
    }
    let mut modules: Vec<&str> = index
        .split("<dt><a class=\"mod\" href=\"")
        .skip(1)
        .filter_map(|rest| rest.split("/index.html").next())
        .collect();
    modules.sort_unstable();
    for module in modules {
        exports(&directory.join(PathBuf::from(module)), &format!("{path}::{module}"), text)?;
    }
    Ok(())
}

/// How a page's item is declared.
pub(crate) fn declaration(html: &str) -> Vec<String> {
    plain_lines(between(after(html, "id=\"main-content\""), "item-decl\"><code>", "</code></pre>"))
}

/// What one page says of its item.
fn page(html: &str, text: &mut String) {
    let html = after(html, "id=\"main-content\"");
    for line in plain_lines(between(html, "item-decl\"><code>", "</code></pre>")) {
        let _ = writeln!(text, "    {line}");
    }
    let inherent = section(html, "implementations-list");
    for block in inherent.split("<h3 class=\"code-header\">").skip(1) {
        let _ = writeln!(text, "    {}", plain(before(block, "</h3>")));
        for method in block.split("<h4 class=\"code-header\">").skip(1) {
            let _ = writeln!(text, "        {}", plain(before(method, "</h4>")));
        }
    }
    for list in ["trait-implementations-list", "foreign-impls", "implementors-list"] {
        for header in headers(section(html, list)) {
            let _ = writeln!(text, "    {header}");
        }
    }
    for header in headers(section(html, "synthetic-implementations-list")) {
        if [" Send for ", " Sync for ", " !Send for ", " !Sync for "].iter().any(|name| header.contains(name)) {
            let _ = writeln!(text, "    {header}");
        }
    }
}

/// The impls of a section, sorted: rustdoc's own order is not promised.
fn headers(section: &str) -> impl Iterator<Item = String> {
    let headers = section.split("<h3 class=\"code-header\">").skip(1).map(|block| plain(before(block, "</h3>")));
    // A trait of the compiler's own, that nobody can use.
    let mut headers: Vec<String> = headers.filter(|header| !header.contains("StructuralPartialEq")).collect();
    headers.sort_unstable();
    headers.into_iter()
}

/// From an element with this id to the next heading of a page's part.
fn section<'a>(html: &'a str, id: &str) -> &'a str {
    let rest = after(html, &format!("id=\"{id}\""));
    before(rest, "class=\"section-header\"")
}

/// What follows; nothing if it is not there.
fn after<'a>(text: &'a str, what: &str) -> &'a str {
    text.find(what).map_or("", |at| &text[at + what.len()..])
}

/// What comes before; all if it is not there.
fn before<'a>(text: &'a str, what: &str) -> &'a str {
    text.find(what).map_or(text, |at| &text[..at])
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    before(after(text, from), to)
}

fn hrefs(html: &str) -> impl Iterator<Item = &str> {
    html.split("<a href=\"").skip(1).filter_map(|rest| rest.split('"').next())
}

/// Text without tags, in one line.
fn plain(html: &str) -> String {
    let words: Vec<String> = plain_lines(html).iter().map(|line| line.trim().to_owned()).collect();
    let line = words.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace("( ", "(").replace(", )", ")").replace(",)", ")")
}

/// Text without tags, in lines; without those that are blank or only say what is hidden.
fn plain_lines(html: &str) -> Vec<String> {
    let mut text = String::new();
    // What a page unfolds on a click says how much it hides.
    let html = html.split("<summary").map(|part| part.split_once("</summary>").map_or(part, |(_, rest)| rest));
    for part in html.collect::<String>().split('<').enumerate() {
        match part {
            (0, first) => text.push_str(first),
            // A clause stands below what it belongs to.
            (_, tag) if tag.starts_with("div class=\"where\"") => {
                text.push('\n');
                text.push_str(after(tag, ">"));
            }
            (_, tag) => text.push_str(after(tag, ">")),
        }
    }
    for (entity, character) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&#x27;", "'"),
        ("&nbsp;", " "),
        ("&amp;", "&"),
    ] {
        text = text.replace(entity, character);
    }
    text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "<nav><h3 class=\"code-header\">not this</h3></nav><section id=\"main-content\">\
        <pre class=\"rust item-decl\"><code>pub struct A&lt;T&gt; {<details><summary class=\"hideme\"><span>Show 2 fields</span>\
        </summary>\n    pub b: <a href=\"x\">u64</a>,\n</details>}</code></pre><p>Words.</p>\
        <h2 id=\"implementations\" class=\"section-header\">Implementations</h2><div id=\"implementations-list\">\
        <h3 class=\"code-header\">impl&lt;T&gt; A&lt;T&gt;</h3><h4 class=\"code-header\">pub fn <a>c</a>(\n    &amp;self,\n    d: u8,\n) -&gt; E<div class=\"where\">where\n    T: F,</div></h4>\
        <h5>Errors</h5><h2 id=\"trait-implementations\" class=\"section-header\">Trait</h2>\
        <div id=\"trait-implementations-list\"><h3 class=\"code-header\">impl&lt;T&gt; Clone for A&lt;T&gt;</h3>\
        <h4 class=\"code-header\">fn clone(&amp;self) -&gt; Self</h4>\
        <h2 id=\"synthetic-implementations\" class=\"section-header\">Auto</h2><div id=\"synthetic-implementations-list\">\
        <h3 class=\"code-header\">impl&lt;T&gt; !Send for A&lt;T&gt;</h3><h3 class=\"code-header\">impl&lt;T&gt; Freeze for A&lt;T&gt;</h3>\
        <h2 id=\"blanket-implementations\" class=\"section-header\">Blanket</h2><h3 class=\"code-header\">impl&lt;T&gt; Any for T</h3>";

    #[test]
    fn a_page_is_read_as_its_declaration_methods_and_traits() {
        let mut text = String::new();
        page(PAGE, &mut text);
        let expected = "    pub struct A<T> {\n        pub b: u64,\n    }\n    impl<T> A<T>\n        pub fn c(&self, d: u8) -> E where T: F,\n    \
                        impl<T> Clone for A<T>\n    impl<T> !Send for A<T>\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_page_is_named_by_its_kind_and_path() {
        assert_eq!(path_of("struct.Raft.html").1, ("struct", "Raft".to_owned()));
        assert_eq!(path_of("a/b/fn.c.html").1, ("fn", "a::b::c".to_owned()));
    }

    #[test]
    fn a_line_that_moves_to_another_item_is_a_difference() {
        assert!(is_same("x", "a\n    m\nb\n", "a\n    m\nb\n"));
        assert!(!is_same("x", "a\n    m\nb\n", "a\nb\n    m\n"));
        assert!(!is_same("x", "", "a\n"));
    }
}
