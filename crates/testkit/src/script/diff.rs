//! The difference between recorded and actual output.

/// Lines of context around a difference.
const CONTEXT_LINES: usize = 2;

/// `None` if the lines are equal.
pub(super) fn lines(recorded: &[&str], now: &[String]) -> Option<String> {
    if recorded.iter().eq(now.iter()) {
        return None;
    }
    let marked = marked(recorded, now);
    let near_change = |place: usize| {
        let from = place.saturating_sub(CONTEXT_LINES);
        let upto = (place + CONTEXT_LINES + 1).min(marked.len());
        marked[from..upto].iter().any(|(mark, _)| *mark != ' ')
    };
    let shown = marked.iter().enumerate().filter(|(place, _)| near_change(*place));
    let shown: Vec<String> = shown.map(|(_, (mark, line))| format!("  {mark} {line}")).collect();
    Some(shown.join("\n"))
}

/// Every line with `-`, `+` or a blank, by the longest common subsequence.
fn marked(old: &[&str], new: &[String]) -> Vec<(char, String)> {
    // common[i][j]: length of the longest common subsequence of old[i..] and new[j..].
    let mut common = vec![vec![0usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = match old[i] == new[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut marked = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            marked.push((' ', new[j].clone()));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || i < old.len() && common[i + 1][j] >= common[i][j + 1] {
            marked.push(('-', old[i].to_string()));
            i += 1;
        } else {
            marked.push(('+', new[j].clone()));
            j += 1;
        }
    }
    marked
}
