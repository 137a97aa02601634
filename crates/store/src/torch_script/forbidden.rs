//! What no artefact may do: a TorchScript archive holds code, which libtorch's interpreter runs, some of it while the archive
//! is loaded (`__setstate__`, and what arguments are when they are left out). A few operators reach outside the module, to
//! files or other machines; an archive whose code names one is refused before any runtime sees it.

use engine::{Error, Result};

use super::archive::Archive;
use super::depth::is_too_deep;

/// Words that its code may not have anywhere: operators that write or map files or call other machines, and the namespaces
/// of those that do. Anywhere, as no reading of the code but libtorch's own tells a name from a string for certain.
const REFUSED: [&str; 10] = [
    "save",
    "from_file",
    "rpc_async",
    "rpc_sync",
    "rpc_remote",
    "c10d",
    "dist_c10d",
    "dist_rpc",
    "dist_autograd",
    "profiler",
];

/// Namespaces of operators (`ops.NAMESPACE.NAME`) that only compute; `torch.NAME` is `aten`.
const OPERATORS: [&str; 12] = [
    "aten",
    "prim",
    "prims",
    "quantized",
    "_quantized",
    "quantization",
    "sparse",
    "prepacked",
    "mkldnn_prepacked",
    "mkldnn",
    "onednn",
    "onnx",
];

/// Namespaces of classes of libtorch's own (`torch.classes.NAMESPACE.NAME`) that hold packed weights and nothing else.
const CLASSES: [&str; 4] = ["quantized", "rnn", "sparse", "mkldnn"];

/// Functions of all code: what calls what is read by recursion, too. Of the largest models that are traced, each layer has
/// one.
const FUNCTIONS_MAX: usize = 10_000;

/// Where libtorch looks for code.
const CODE: &str = "code/";

/// Looks through all code and all pickles of `archive`.
///
/// # Errors
/// [`Unsupported`](engine::ErrorKind::Unsupported), naming the file and what it names.
pub(super) fn check(archive: &Archive<'_>) -> Result<()> {
    let mut functions = 0;
    for name in archive.names() {
        let refusal = match name {
            _ if name.starts_with(CODE) && name.ends_with(".py") => {
                let code = archive.content(name)?;
                functions += words(&code).filter(|&(_, word)| word == b"def").count();
                let many = || (functions > FUNCTIONS_MAX).then(|| "has more functions than any model".to_owned());
                refused_in_code(&code).or_else(many)
            }
            _ if name.ends_with(".pkl") => refused_class(&archive.content(name)?),
            _ => None,
        };
        if let Some(what) = refusal {
            return Err(Error::unsupported(format!(
                "its '{name}' {what}; no model may reach outside of itself, to files or other programs, or bring the \
                 server down: save the module without it"
            )));
        }
    }
    Ok(())
}

/// What `code` names that it may not, for a person.
fn refused_in_code(code: &[u8]) -> Option<String> {
    if is_too_deep(code) {
        return Some("nests deeper than any code does".to_owned());
    }
    let mut gets_by_name = false;
    for (at, word) in words(code) {
        let behind = &code[at + word.len()..];
        if let Some(refused) = REFUSED.iter().find(|refused| refused.as_bytes() == word) {
            return Some(format!("names '{refused}'"));
        }
        // The namespace itself, and no attribute that is called so.
        let attribute = at.checked_sub(1).is_some_and(|before| code[before] == b'.');
        if word == b"ops" && !attribute {
            let namespace =
                behind.strip_prefix(b".").map(leading_word).filter(|word| behind.get(1 + word.len()) == Some(&b'.'));
            if !namespace.is_some_and(|word| OPERATORS.iter().any(|known| known.as_bytes() == word)) {
                let named = String::from_utf8_lossy(namespace.unwrap_or_default());
                return Some(format!(
                    "names operators 'ops.{named}', which are none that are known to compute and no more"
                ));
            }
        }
        gets_by_name |= word == b"getattr";
    }
    // getattr takes a name as a string, in which a letter may be written as its number.
    let hides =
        code.windows(2).any(|pair| pair[0] == b'\\' && (pair[1].is_ascii_digit() || b"xuUN".contains(&pair[1])));
    if gets_by_name && hides {
        return Some("calls 'getattr' beside a string with letters as numbers".to_owned());
    }
    refused_class(code)
}

/// A class of libtorch's that `bytes` name and that may do more than hold weights.
fn refused_class(bytes: &[u8]) -> Option<String> {
    words(bytes).find_map(|(at, word)| {
        // In code, parts of a name are apart by dots; in a pickle, the last of them by a line's end.
        let separated = |byte: u8| byte == b'.' || byte == b'\n' || byte.is_ascii_whitespace();
        let before = bytes[..at].trim_ascii_end();
        let of_torch = before.strip_suffix(b".").unwrap_or(before).trim_ascii_end().ends_with(b"torch");
        if word != b"classes" || !of_torch {
            return None;
        }
        let behind = &bytes[at + word.len()..];
        let skipped = behind.iter().take_while(|byte| separated(**byte)).count();
        let namespace = leading_word(&behind[skipped..]);
        let known = CLASSES.iter().any(|known| known.as_bytes() == namespace);
        (!known).then(|| format!("names a class of 'torch.classes.{}'", String::from_utf8_lossy(namespace)))
    })
}

/// The names in `text`, as libtorch's lexer takes them (torch/csrc/jit/frontend/lexer.h), and where each begins.
fn words(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        at += text[at..].iter().position(|&byte| of_word(byte))?;
        let word = leading_word(&text[at..]);
        let start = at;
        at += word.len();
        Some((start, word))
    })
}

pub(super) fn leading_word(text: &[u8]) -> &[u8] {
    &text[..text.iter().take_while(|&&byte| of_word(byte)).count()]
}

fn of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reaches_outside_is_found_however_it_is_written() {
        for (code, found) in [
            ("_0 = torch.add(x, y)\n    return ops.quantized.linear(_0, getattr(self, \"0\"))", None),
            ("ops.prim.RaiseException(\"a\\n\", \"builtins.RuntimeError\")", None),
            ("classes = self.classes\n    saved = self.saved.save_me", None),
            ("def f(x: __torch__.torch.classes.quantized.LinearPackedParamsBase)", None),
            ("torch.save(x, \"f\")", Some("'save'")),
            ("(torch. # here\n save(x, \"f\"))", Some("'save'")),
            ("\"f\".from_file()", Some("'from_file'")),
            ("getattr(torch, \"from_file\")(\"f\")", Some("'from_file'")),
            ("getattr(torch, \"from\\137file\")(\"f\")", Some("getattr")),
            ("rpc_sync(\"worker\", f, ())", Some("'rpc_sync'")),
            ("n = ops\n    n.evil.run(x)", Some("'ops.'")),
            ("ops.evil.run(x)", Some("'ops.evil'")),
            ("ops.aten_evil.run(x)", Some("aten_evil")),
            ("__torch__.torch.classes.evil.Store(x)", Some("classes.evil")),
            ("__torch__.torch . classes . evil.Store(x)", Some("classes.evil")),
        ] {
            let got = refused_in_code(code.as_bytes());
            match found {
                None => assert_eq!(got, None, "{code}"),
                Some(says) => assert!(got.as_deref().is_some_and(|got| got.contains(says)), "{code}: {got:?}"),
            }
        }
        for (pickle, refused) in [
            (&b"c__torch__.torch.classes.quantized\nLinearPackedParamsBase\n"[..], false),
            (b"X\x07\x00\x00\x00classesq\x01", false),
            (b"c__torch__.torch.classes.evil\nStore\n", true),
            (b"c__torch__.torch\nclasses.evil.Store\n", true),
            (b"c__torch__.torch.classes\nevil.Store\n", true),
        ] {
            assert_eq!(refused_class(pickle).is_some(), refused, "{}", String::from_utf8_lossy(pickle));
        }
    }
}
