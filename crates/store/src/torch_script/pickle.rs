//! The pickles of an archive, as far as memory goes: which file each tensor lies in, and how much of it.
//!
//! libtorch takes sizes, steps and places of tensors from the pickle and does not hold them against the file (1.13,
//! torch/csrc/jit/serialization/unpickler.cpp), so a pickle that lies has it read what lies behind. Here the pickle is
//! followed as libtorch follows it, and each tensor is held against its file.

use std::rc::Rc;

use engine::{Error, Result};

/// What libtorch builds tensors with: the first four arguments are storage, offset, sizes and steps, in elements.
const REBUILD: [&str; 2] = ["torch._utils\n_rebuild_tensor_v2", "torch._utils\n_rebuild_qtensor"];

/// Functions whose arguments libtorch takes as they are: places in a sparse tensor, tensors of other classes, other machines.
const UNCHECKED: [&str; 3] =
    ["torch._utils\n_rebuild_sparse_tensor", "torch._tensor\n_rebuild_from_type_v2", "torch.distributed.rpc\nrref"];

/// Bytes of an element, by the type of its storage in the module `torch`.
const ELEMENTS: [(&str, u64); 16] = [
    ("BoolStorage", 1),
    ("ByteStorage", 1),
    ("CharStorage", 1),
    ("QInt8Storage", 1),
    ("QUInt8Storage", 1),
    ("QUInt4x2Storage", 1),
    ("QUInt2x4Storage", 1),
    ("HalfStorage", 2),
    ("BFloat16Storage", 2),
    ("ShortStorage", 2),
    ("IntStorage", 4),
    ("FloatStorage", 4),
    ("QInt32Storage", 4),
    ("LongStorage", 8),
    ("DoubleStorage", 8),
    ("ComplexFloatStorage", 8),
];

/// A value on the stack, as far as it matters.
#[derive(Clone)]
enum Value {
    Mark,
    Int(i64),
    Text(Rc<str>),
    /// `MODULE\nNAME`
    Global(Rc<str>),
    /// Of so many elements.
    Storage(u64),
    /// No deeper than a tuple of tuples.
    Tuple(Rc<[Value]>),
    Other,
}

/// Holds every tensor in `pickle` against the file it lies in, of which `file_bytes` tells the size by name.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for what is no pickle of libtorch's, or lies;
/// [`Unsupported`](engine::ErrorKind::Unsupported) for what cannot be held against anything.
pub(crate) fn check(pickle: &[u8], file_bytes: &dyn Fn(&str) -> Option<usize>) -> Result<()> {
    Reader { file_bytes, rest: pickle, stack: Vec::new(), memo: Vec::new() }.follow()
}

struct Reader<'a> {
    file_bytes: &'a dyn Fn(&str) -> Option<usize>,
    rest: &'a [u8],
    stack: Vec<Value>,
    memo: Vec<Value>,
}

impl<'a> Reader<'a> {
    /// Follows the pickle to its end; the operations are those that libtorch knows, and do what they do there.
    fn follow(&mut self) -> Result<()> {
        if self.bytes(2)? != [0x80, 2] {
            return Err(odd("another protocol than the second"));
        }
        loop {
            let operation = self.bytes(1)?[0];
            match operation {
                b'.' => return Ok(()),
                b'(' => self.stack.push(Value::Mark),
                b'K' => self.number(1)?,
                b'M' => self.number(2)?,
                b'J' => self.number(4)?,
                0x8a if self.bytes(1)? == [8] => self.number(8)?,
                b'G' => self.other(8)?,
                b'X' => {
                    let text = self.text()?;
                    self.stack.push(Value::Text(text));
                }
                b'N' | 0x88 | 0x89 | b']' | b'}' => self.other(0)?,
                b')' => self.stack.push(Value::Tuple([].into())),
                0x85..=0x87 => {
                    let values = self.pop(usize::from(operation - 0x84))?;
                    self.tuple(values);
                }
                b't' => {
                    let values = self.pop_to_mark()?;
                    self.tuple(values);
                }
                // What is above the mark goes into what is below it.
                b'e' | b'u' => drop(self.pop_to_mark()?),
                b'l' | b'd' => {
                    self.pop_to_mark()?;
                    self.other(0)?;
                }
                b's' => drop(self.pop(2)?),
                // The class stays, for a call to come.
                0x81 => drop(self.pop(1)?),
                b'c' => {
                    let global = [self.line()?, self.line()?].join("\n");
                    self.stack.push(Value::Global(global.into()));
                }
                b'q' | b'h' => {
                    let at = u32::from(self.bytes(1)?[0]);
                    self.remember(operation == b'q', at)?;
                }
                b'r' | b'j' => {
                    let at = self.bytes(4)?.first_chunk().map_or(0, |raw| u32::from_le_bytes(*raw));
                    self.remember(operation == b'r', at)?;
                }
                b'Q' => self.storage()?,
                b'R' | b'b' => self.call()?,
                other => return Err(odd(&format!("an operation {other:#x} that libtorch does not know"))),
            }
        }
    }

    /// Puts down or takes up what goes by the number `at`. libtorch counts them from 0 without a gap.
    fn remember(&mut self, put: bool, at: u32) -> Result<()> {
        let at = at as usize;
        if !put {
            let value = self.memo.get(at).cloned().ok_or_else(|| odd("a value that was not there yet"))?;
            self.stack.push(value);
            return Ok(());
        }
        let value = self.stack.last().cloned().ok_or_else(|| odd("nothing to remember"))?;
        let known = self.memo.len();
        match self.memo.get_mut(at) {
            Some(place) => *place = value,
            None if at == known => self.memo.push(value),
            None => return Err(odd("a gap in its numbers")),
        }
        Ok(())
    }

    /// `('storage', TYPE, KEY, DEVICE, ELEMENTS)`, or a storage within another.
    fn storage(&mut self) -> Result<()> {
        let unknown = || odd("a storage that is none of libtorch's");
        let Some(Value::Tuple(fields)) = self.pop(1)?.pop() else { return Err(unknown()) };
        let [Value::Text(_), Value::Global(kind), Value::Text(key), _, Value::Int(count)] = &fields[..] else {
            return Err(unknown());
        };
        let name = kind.strip_prefix("torch\n").unwrap_or_default();
        let element = ELEMENTS.iter().find(|(known, _)| *known == name).map(|&(_, bytes)| bytes);
        let (Some(element_bytes), Ok(count)) = (element, u64::try_from(*count)) else {
            return Err(odd(&format!("a storage of the type '{name}' with {count} elements")));
        };
        if count == 0 {
            self.stack.push(Value::Storage(0));
            return Ok(());
        }
        let there = (self.file_bytes)(key).ok_or_else(|| odd(&format!("a storage without its file '{key}'")))?;
        if count.checked_mul(element_bytes).is_none_or(|bytes| bytes > there as u64) {
            return Err(odd(&format!("{count} elements of {element_bytes} bytes in '{key}', which has {there} bytes")));
        }
        self.stack.push(Value::Storage(count));
        Ok(())
    }

    /// What calls a function: the function and its arguments become what it returns.
    fn call(&mut self) -> Result<()> {
        let mut called = self.pop(2)?;
        let (arguments, function) = (called.pop(), called.pop());
        // libtorch knows functions by number, and would call one by a number that stands there as such.
        let Some(Value::Global(function)) = function else { return Err(odd("a call of what is no function")) };
        if UNCHECKED.contains(&&function[..]) {
            return Err(Error::unsupported(format!(
                "it builds a value with {}, which is not held against the file; save the module with dense tensors",
                function.replace('\n', ".")
            )));
        }
        if REBUILD.contains(&&function[..]) {
            let Some(Value::Tuple(arguments)) = &arguments else { return Err(odd("a tensor of nothing")) };
            let [Value::Storage(there), Value::Int(offset), Value::Tuple(sizes), Value::Tuple(steps), ..] =
                &arguments[..]
            else {
                return Err(odd("a tensor that is none of libtorch's"));
            };
            if !lies_within(*there, *offset, sizes, steps) {
                return Err(odd(&format!("a tensor that is larger than its storage of {there} elements")));
            }
        }
        self.stack.push(Value::Other);
        Ok(())
    }

    /// Takes `count` values off, the topmost last.
    fn pop(&mut self, count: usize) -> Result<Vec<Value>> {
        let at = self.stack.len().checked_sub(count).ok_or_else(|| odd("fewer values than it takes"))?;
        let values = self.stack.split_off(at);
        if values.iter().any(|value| matches!(value, Value::Mark)) {
            return Err(odd("a mark where a value belongs"));
        }
        Ok(values)
    }

    /// Takes off the values above the last mark, and the mark.
    fn pop_to_mark(&mut self) -> Result<Vec<Value>> {
        let marked = self.stack.iter().rposition(|value| matches!(value, Value::Mark)).ok_or_else(|| odd("no mark"))?;
        let values = self.stack.split_off(marked + 1);
        self.stack.pop();
        Ok(values)
    }

    fn tuple(&mut self, values: Vec<Value>) {
        let flat = |value: &Value| !matches!(value, Value::Tuple(_));
        let shallow = |value: Value| match &value {
            // Deeper ones are nothing that a tensor is made of.
            Value::Tuple(inner) if !inner.iter().all(flat) => Value::Other,
            _ => value,
        };
        self.stack.push(Value::Tuple(values.into_iter().map(shallow).collect()));
    }

    /// A value that does not matter, of `skip` bytes.
    fn other(&mut self, skip: usize) -> Result<()> {
        self.bytes(skip)?;
        self.stack.push(Value::Other);
        Ok(())
    }

    /// A number of `length` bytes, at most 8, signed where it has 4 or more.
    fn number(&mut self, length: usize) -> Result<()> {
        let bytes = self.bytes(length)?;
        let negative = length >= 4 && bytes.last().is_some_and(|&last| last & 0x80 != 0);
        let mut raw = [if negative { 0xff } else { 0 }; 8];
        raw[..length].copy_from_slice(bytes);
        self.stack.push(Value::Int(i64::from_le_bytes(raw)));
        Ok(())
    }

    fn text(&mut self) -> Result<Rc<str>> {
        let length = self.bytes(4)?.first_chunk().map_or(0, |raw| u32::from_le_bytes(*raw));
        let text = self.bytes(length as usize)?;
        // What is no text is a name of nothing.
        Ok(String::from_utf8_lossy(text).into())
    }

    fn line(&mut self) -> Result<String> {
        let length = self.rest.iter().position(|&byte| byte == b'\n').ok_or_else(|| odd("a name without an end"))?;
        let line = String::from_utf8_lossy(self.bytes(length)?).into_owned();
        self.bytes(1)?;
        Ok(line)
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| odd("no end"))?;
        self.rest = rest;
        Ok(taken)
    }
}

/// Whether the furthest element of a tensor is one of the `there` of its storage.
fn lies_within(there: u64, offset: i64, sizes: &[Value], steps: &[Value]) -> bool {
    let last = || {
        let mut last = u64::try_from(offset).ok()?;
        if sizes.len() != steps.len() {
            return None;
        }
        let mut empty = false;
        for pair in sizes.iter().zip(steps) {
            let (Value::Int(size), Value::Int(step)) = pair else { return None };
            let (size, step) = (u64::try_from(*size).ok()?, u64::try_from(*step).ok()?);
            empty |= size == 0;
            last = last.checked_add(size.saturating_sub(1).checked_mul(step)?)?;
        }
        Some(empty || last < there)
    };
    last().unwrap_or(false)
}

fn odd(what: &str) -> Error {
    Error::invalid(format!("it is no pickle that torch.jit.save writes: it has {what}"))
}
