//! What Docker keeps on this host: images, containers that have stopped, volumes of nobody.

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

/// An operator's label on an image, a container or a volume that is to stay.
pub const KEEP_LABEL: &str = "skep.keep";
/// What Docker shows in place of a name that is not there.
const NO_NAME: &str = "<none>";
/// Of the name that Docker gives a volume to which nobody else gave one, in hexadecimal digits.
const ANONYMOUS_LENGTH: usize = 64;

/// An image on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalImage {
    pub id: String,
    /// The image that it was made from, where that was here.
    pub parent: Option<String>,
    /// Tags, then digests; none for an image that another has taken its name from.
    pub names: Vec<String>,
    /// With the layers that it shares with others.
    pub bytes: u64,
    /// It has [`KEEP_LABEL`].
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

    /// How to call it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().unwrap_or(&self.id)
    }
}

/// A container on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalContainer {
    pub id: String,
    pub name: String,
    /// The id of its image.
    pub image: String,
    /// `None` while it runs, and while it may yet.
    pub stopped_at: Option<OffsetDateTime>,
    /// It has [`KEEP_LABEL`].
    pub is_kept: bool,
}

impl Swarm {
    /// All images of this host but those that are only steps towards another.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn fetch_images(&self) -> Result<Vec<LocalImage>, SwarmError> {
        let list =
            |docker: Docker| async move { docker.list_images(None::<ListImagesOptions>).await };
        let images = self.call("list the images", list).await?;
        Ok(images.into_iter().map(LocalImage::of).collect())
    }

    /// All containers of this host, running or not.
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

    /// The names of volumes that have no name of somebody's choice, and that no container has.
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

    /// Removes an image by all its names. One that is gone is removed already.
    ///
    /// # Errors
    /// Docker refuses, as when a container has it by now.
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

    /// Removes a container that does not run, with its anonymous volumes or without.
    ///
    /// # Errors
    /// Docker refuses, as when it runs by now.
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
    /// Docker refuses, as when a container has it by now.
    pub async fn remove_volume(&self, name: &str) -> Result<(), SwarmError> {
        let remove = |docker: Docker| async move {
            docker.remove_volume(name, None::<RemoveVolumeOptions>).await
        };
        gone(self.call("remove the volume", remove).await)
    }
}

/// One that was never started may only wait for it.
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
