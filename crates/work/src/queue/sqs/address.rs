//! Where a queue is, as people type it.

use engine::{Error, Result};

/// A queue that was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// The queue's own URL, or its name, by which the service is asked for it.
    pub(super) queue: Queue,
    /// The region, where the address tells it.
    pub(super) region: Option<String>,
    /// Where the service is, when it is not Amazon's own.
    pub(super) endpoint: Option<String>,
}

/// How a queue is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    Url(String),
    Name(String),
}

impl Address {
    /// Reads `text`: `https://sqs.REGION.amazonaws.com/ACCOUNT/NAME`, the like of another server, or `sqs://NAME`.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for anything else, [`Unsupported`](engine::ErrorKind::Unsupported)
    /// for a queue that keeps an order.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::invalid(format!("{text}: {why}; give https://sqs.REGION.amazonaws.com/ACCOUNT/NAME or sqs://NAME"))
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("this is no address of a queue"))?;
        if rest.ends_with(".fifo") {
            return Err(Error::unsupported(format!(
                "{text}: a FIFO queue holds back everything behind a long video; use a standard queue, whose repeats do no \
                 harm here"
            )));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let is_name = |name: &str| (1..=80).contains(&name.len()) && name.chars().all(plain);
        match scheme {
            "sqs" if is_name(rest) => Ok(Self { queue: Queue::Name(rest.to_owned()), region: None, endpoint: None }),
            "sqs" => Err(wrong("a queue's name has 1 to 80 letters, digits, '-' and '_'")),
            "http" | "https" => {
                let (host, path) = rest.split_once('/').ok_or_else(|| wrong("it names no queue"))?;
                if host.is_empty() || !path.rsplit('/').next().is_some_and(is_name) {
                    return Err(wrong("it names no queue"));
                }
                let region = host.strip_prefix("sqs.").and_then(|rest| rest.split_once(".amazonaws.com"));
                let region = region.map(|(region, _)| region.to_owned());
                let endpoint = region.is_none().then(|| format!("{scheme}://{host}"));
                Ok(Self { queue: Queue::Url(text.to_owned()), region, endpoint })
            }
            _ => Err(wrong("there is no such kind of queue")),
        }
    }
}

/// The name and the account in `arn:aws:sqs:REGION:ACCOUNT:NAME`.
pub(super) fn of_arn(arn: &str) -> Option<(&str, &str)> {
    let parts: Vec<&str> = arn.split(':').collect();
    match parts[..] {
        ["arn", _, "sqs", _, account, name] => Some((name, account)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let url = |text: &str, region: Option<&str>, endpoint: Option<&str>| Address {
            queue: Queue::Url(text.to_owned()),
            region: region.map(str::to_owned),
            endpoint: endpoint.map(str::to_owned),
        };
        for (text, region, endpoint) in [
            ("https://sqs.eu-west-1.amazonaws.com/123456789012/videos", Some("eu-west-1"), None),
            ("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/videos", Some("cn-north-1"), None),
            ("http://127.0.0.1:4566/000000000000/videos", None, Some("http://127.0.0.1:4566")),
            ("https://sqs.example.org/queue/videos", None, Some("https://sqs.example.org")),
        ] {
            assert_eq!(Address::parse(text).unwrap(), url(text, region, endpoint));
        }
        let named = Address::parse("sqs://videos").unwrap();
        assert_eq!(named, Address { queue: Queue::Name("videos".to_owned()), region: None, endpoint: None });
        for text in ["videos", "sqs://", "sqs://a/b", "https://", "https://host", "https://host/", "amqp://host/queue"]
        {
            let error = Address::parse(text).unwrap_err();
            assert!(error.message.contains("sqs://NAME"), "{error}");
        }
        assert_eq!(Address::parse("sqs://videos.fifo").unwrap_err().kind, engine::ErrorKind::Unsupported);
        assert_eq!(of_arn("arn:aws:sqs:eu-west-1:123:dead"), Some(("dead", "123")));
        assert_eq!(of_arn("arn:aws:sns:eu-west-1:123:dead"), None);
    }
}
