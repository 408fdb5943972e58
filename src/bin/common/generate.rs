//! Man pages and shell completions from the definition of the arguments, for packages: a hidden option in
//! the manner of ripgrep's `--generate`.
//!
//! ```text
//! cp-infer --generate man > cp-infer.1
//! cp-build --generate man import > cp-build-import.1     a page for each subcommand, as git has
//! cp-infer --generate complete-bash                      complete-zsh, complete-fish
//! ```

use std::ffi::OsString;
use std::io::Write;

use clap::{Command, Parser};
use clap_complete::{Shell, generate};
use clap_mangen::Man;

/// The arguments of the program; ends it where they are wrong, ask for help, or for generated text.
pub(crate) fn parse<P: Parser>() -> P {
    parse_from(std::env::args_os().collect())
}

/// As [`parse`], of a command line that is not the process's: the program's name comes first.
pub(crate) fn parse_from<P: Parser>(line: Vec<OsString>) -> P {
    let mut args = line.iter().skip(1).cloned();
    if args.next().is_some_and(|arg| arg == "--generate") {
        let words: Vec<OsString> = args.collect();
        let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
        std::process::exit(match text(P::command(), &words) {
            // Whoever reads it may have gone away.
            Ok(text) => i32::from(std::io::stdout().write_all(&text).is_err()),
            Err(problem) => {
                eprintln!("{}: --generate: {problem}", P::command().get_name());
                2
            }
        });
    }
    P::parse_from(line)
}

/// What `--generate WORDS` writes.
fn text(mut command: Command, words: &[&str]) -> Result<Vec<u8>, String> {
    command.build();
    let name = command.get_name().to_owned();
    let shell = match words {
        ["man"] => return page(command),
        ["man", subcommand] => {
            // Built, it calls itself `cp-build-import`, and so does its page.
            let found = command.find_subcommand(subcommand).cloned();
            return page(found.ok_or("no such subcommand")?);
        }
        ["complete-bash"] => Shell::Bash,
        ["complete-zsh"] => Shell::Zsh,
        ["complete-fish"] => Shell::Fish,
        _ => {
            return Err(
                "one of man, man SUBCOMMAND, complete-bash, complete-zsh, complete-fish".into(),
            );
        }
    };
    let mut text = Vec::new();
    generate(shell, &mut command, name, &mut text);
    Ok(text)
}

fn page(command: Command) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let version = format!("centerpoint {}", env!("CARGO_PKG_VERSION"));
    Man::new(command)
        .source(version)
        .manual("CenterPoint lidar detection")
        .render(&mut text)
        .map_err(|error| error.to_string())?;
    Ok(text)
}
