//! Every file under `testdata/` is a test.

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use quorate_testkit::script::{Mode, files, run_file};

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    let var = |name: &str| std::env::var(name).ok();
    let mode = match Mode::from_env(var("QUORATE_REWRITE").as_deref(), var("CI").as_deref()) {
        Ok(mode) => mode,
        Err(failure) => {
            eprintln!("{failure}");
            return ExitCode::FAILURE;
        }
    };
    let paths = match files(&root) {
        Ok(paths) => paths,
        Err(error) => {
            eprintln!("{}: {error}", root.display());
            return ExitCode::FAILURE;
        }
    };
    if paths.is_empty() {
        eprintln!("{}: no scripts", root.display());
        return ExitCode::FAILURE;
    }
    let trials = paths.into_iter().map(|path| {
        let name = path.strip_prefix(&root).unwrap_or(&path).with_extension("").display().to_string();
        let file = format!("testdata/{name}.txt");
        Trial::test(name, move || run_file(&path, &file, mode).map_err(|failure| Failed::from(failure.to_string())))
    });
    libtest_mimic::run(&args, trials.collect()).exit_code()
}
