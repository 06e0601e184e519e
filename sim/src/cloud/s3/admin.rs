//! Functions with which tests create buckets, and read and change objects.

use std::fmt;

use super::{Bucket, Object, check_name, no_bucket};
use crate::cloud::Cloud;
use crate::cloud::errors::ApiError;

/// One object.
#[derive(Clone, PartialEq, Eq)]
pub struct ObjectView {
    pub key: String,
    pub body: Vec<u8>,
    /// The ARN of the KMS key that it is encrypted with; `None`: S3's own keys.
    pub kms_key: Option<String>,
}

/// Without the content, which may be secret.
impl fmt::Debug for ObjectView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut view = f.debug_struct("ObjectView");
        view.field("key", &self.key).field("kms_key", &self.kms_key).finish_non_exhaustive()
    }
}

impl Cloud {
    /// Creates an empty bucket in a region.
    ///
    /// # Errors
    /// When the name is not valid or is taken.
    pub fn create_bucket(&self, name: &str, region: &str) -> Result<(), ApiError> {
        check_name(name)?;
        self.change(|state, _| state.s3.create(name, region))
    }

    /// Deletes a bucket and its objects.
    ///
    /// # Errors
    /// When there is no such bucket.
    pub fn delete_bucket(&self, name: &str) -> Result<(), ApiError> {
        let deleted = self.change(|state, _| state.s3.buckets.remove(name));
        deleted.map(drop).ok_or_else(no_bucket)
    }

    /// Returns the objects of a bucket, in S3's order.
    ///
    /// # Errors
    /// When there is no such bucket.
    pub fn objects(&self, bucket: &str) -> Result<Vec<ObjectView>, ApiError> {
        self.in_bucket(bucket, |bucket| {
            let view = |(key, object): (&String, &Object)| {
                let (body, kms_key) = (object.body.to_vec(), object.kms_key.clone());
                ObjectView { key: key.clone(), body, kms_key }
            };
            bucket.objects.iter().map(view).collect()
        })
    }

    /// Stores an object, encrypted with S3's own keys; replaces one with the same key.
    ///
    /// # Errors
    /// When there is no such bucket.
    pub fn put_object(&self, bucket: &str, key: &str, body: Vec<u8>) -> Result<(), ApiError> {
        let object = Object::new(body.into(), None, self.now());
        self.in_bucket(bucket, |bucket| {
            bucket.objects.insert(key.to_owned(), object);
        })
    }

    /// Deletes an object; returns `false` when it does not exist.
    ///
    /// # Errors
    /// When there is no such bucket.
    pub fn delete_object(&self, bucket: &str, key: &str) -> Result<bool, ApiError> {
        self.in_bucket(bucket, |bucket| bucket.objects.remove(key).is_some())
    }

    fn in_bucket<T>(&self, name: &str, with: impl FnOnce(&mut Bucket) -> T) -> Result<T, ApiError> {
        self.change(|state, _| state.s3.buckets.get_mut(name).map(with).ok_or_else(no_bucket))
    }
}
