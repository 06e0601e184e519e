//! Lists and removes unused things that Docker keeps on this host: images, stopped containers, anonymous volumes.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::{ContainerSummary, ContainerSummaryStateEnum, ImageSummary};
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptions, ListVolumesOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveImageOptions, RemoveVolumeOptions,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Swarm, SwarmError, SwarmErrorKind};

/// The label with which an operator keeps an image, a container or a volume.
pub const KEEP_LABEL: &str = "skep.keep";
/// Docker's placeholder for a missing name.
const NO_NAME: &str = "<none>";
/// Length of the name that Docker gives an anonymous volume, in hexadecimal digits.
const ANONYMOUS_LENGTH: usize = 64;

/// An image on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalImage {
    /// Docker's id, `sha256:` and hexadecimal digits.
    pub id: String,
    /// The image that it was made from, if that image was on this host.
    pub parent: Option<String>,
    /// Tags, then digests; empty for an image whose name another image has taken.
    pub names: Vec<String>,
    /// Size, including the layers that it shares with other images.
    pub bytes: u64,
    /// Whether it has [`KEEP_LABEL`].
    pub is_kept: bool,
}

impl LocalImage {
    fn of(image: ImageSummary) -> Self {
        let names = image.repo_tags.into_iter().chain(image.repo_digests);
        Self {
            id: image.id,
            parent: Some(image.parent_id).filter(|id| !id.is_empty()),
            names: names.filter(|name| !name.contains(NO_NAME)).collect(),
            bytes: image.size.try_into().unwrap_or_default(),
            is_kept: image.labels.contains_key(KEEP_LABEL),
        }
    }

    /// Returns its first name, or its id if it has no name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().unwrap_or(&self.id)
    }
}

/// A container on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalContainer {
    /// Docker's id, hexadecimal digits.
    pub id: String,
    /// Name without the slash at its start; the id where Docker reports no name.
    pub name: String,
    /// The id of its image.
    pub image: String,
    /// `None` while it runs, and while it can still start.
    pub stopped_at: Option<OffsetDateTime>,
    /// Whether it has [`KEEP_LABEL`].
    pub is_kept: bool,
}

impl Swarm {
    /// Fetches all images of this host except those that are only steps towards another image.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn fetch_images(&self) -> Result<Vec<LocalImage>, SwarmError> {
        let list =
            |docker: Docker| async move { docker.list_images(None::<ListImagesOptions>).await };
        let images = self.call("list the images", list).await?;
        Ok(images.into_iter().map(LocalImage::of).collect())
    }

    /// Fetches all containers of this host, running or not.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn fetch_all_containers(&self) -> Result<Vec<LocalContainer>, SwarmError> {
        let options = &ListContainersOptionsBuilder::default().all(true).build();
        let list =
            |docker: Docker| async move { docker.list_containers(Some(options.clone())).await };
        let containers = self.call("list the containers", list).await?;
        let mut local = Vec::with_capacity(containers.len());
        for container in containers {
            let (Some(id), Some(image)) = (&container.id, &container.image_id) else { continue };
            let names = container.names.as_ref().and_then(|names| names.first());
            local.push(LocalContainer {
                stopped_at: if has_stopped(&container) { self.stop_of(id).await? } else { None },
                name: names.map_or(id.as_str(), |name| name.trim_start_matches('/')).to_owned(),
                is_kept: container.labels.is_some_and(|labels| labels.contains_key(KEEP_LABEL)),
                image: image.clone(),
                id: id.clone(),
            });
        }
        Ok(local)
    }

    async fn stop_of(&self, container: &str) -> Result<Option<OffsetDateTime>, SwarmError> {
        let inspect =
            |docker: Docker| async move { docker.inspect_container(container, None).await };
        let inspected = match self.call("inspect the container", inspect).await {
            Err(error) if error.kind == SwarmErrorKind::NotFound => return Ok(None),
            inspected => inspected?,
        };
        let state = inspected.state.filter(|state| state.running != Some(true));
        let stopped = state.and_then(|state| state.finished_at);
        Ok(stopped.and_then(|at| OffsetDateTime::parse(&at, &Rfc3339).ok()))
    }

    /// Fetches the names of anonymous volumes that no container uses and that do not have [`KEEP_LABEL`].
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn fetch_lost_volumes(&self) -> Result<Vec<String>, SwarmError> {
        let filters = HashMap::from([("dangling".to_owned(), vec!["true".to_owned()])]);
        let options = &ListVolumesOptionsBuilder::default().filters(&filters).build();
        let list = |docker: Docker| async move { docker.list_volumes(Some(options.clone())).await };
        let volumes = self.call("list the volumes", list).await?;
        let is_lost = |name: &str| {
            name.len() == ANONYMOUS_LENGTH && name.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let volumes = volumes.volumes.unwrap_or_default().into_iter();
        let volumes = volumes.filter(|volume| !volume.labels.contains_key(KEEP_LABEL));
        Ok(volumes.map(|volume| volume.name).filter(|name| is_lost(name)).collect())
    }

    /// Removes an image by all its names. Succeeds where it does not exist.
    ///
    /// # Errors
    /// Docker refuses, for example because a container uses the image by now.
    pub async fn remove_image(&self, image: &LocalImage) -> Result<(), SwarmError> {
        let names =
            if image.names.is_empty() { vec![&image.id] } else { image.names.iter().collect() };
        for name in names {
            let remove = |docker: Docker| async move {
                docker.remove_image(name, None::<RemoveImageOptions>, None).await.map(drop)
            };
            gone(self.call("remove the image", remove).await)?;
        }
        Ok(())
    }

    /// Removes a container that does not run, with or without its anonymous volumes.
    ///
    /// # Errors
    /// Docker refuses, for example because the container runs by now.
    pub async fn remove_container(&self, id: &str, volumes: bool) -> Result<(), SwarmError> {
        let options = &RemoveContainerOptionsBuilder::default().v(volumes).build();
        let remove = |docker: Docker| async move {
            docker.remove_container(id, Some(options.clone())).await
        };
        gone(self.call("remove the container", remove).await)
    }

    /// Removes a volume.
    ///
    /// # Errors
    /// Docker refuses, for example because a container uses the volume by now.
    pub async fn remove_volume(&self, name: &str) -> Result<(), SwarmError> {
        let remove = |docker: Docker| async move {
            docker.remove_volume(name, None::<RemoveVolumeOptions>).await
        };
        gone(self.call("remove the volume", remove).await)
    }
}

/// Whether it has ended. A container that was never started can still be waiting for its start.
fn has_stopped(container: &ContainerSummary) -> bool {
    use ContainerSummaryStateEnum::{DEAD, EXITED};
    matches!(container.state, Some(EXITED | DEAD))
}

fn gone(removed: Result<(), SwarmError>) -> Result<(), SwarmError> {
    match removed {
        Err(error) if error.kind == SwarmErrorKind::NotFound => Ok(()),
        other => other,
    }
}
