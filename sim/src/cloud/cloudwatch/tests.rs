use time::Duration;
use time::macros::datetime;

use super::data::Data;
use super::*;
use crate::cloud::errors::ApiError;
use crate::cloud::wire::Params;

const NOW: OffsetDateTime = datetime!(2026-11-30 18:00:30 UTC);

fn form(text: &str) -> Data {
    Data::of_form(&Params::parse(text.as_bytes()))
}

/// Publishes one item of a namespace.
fn put(store: &mut CloudWatch, datum: &str) -> Result<(), ApiError> {
    let datum = datum.split('&').map(|it| format!("&MetricData.member.1.{it}"));
    store.put(&form(&format!("Namespace=skep{}", datum.collect::<String>())), NOW)
}

fn load() -> Metric {
    Metric::new("skep", "Load", &[("Group", "workers")])
}

fn value(value: f64, at: OffsetDateTime) -> String {
    let at = crate::cloud::clock::iso_seconds(at);
    format!(
        "MetricName=Load&Dimensions.member.1.Name=Group&Dimensions.member.1.Value=workers&\
         Value={value}&Timestamp={at}"
    )
}

#[test]
fn values_of_a_period_are_summed_up() {
    let mut store = CloudWatch::default();
    for (number, seconds) in [(4.0, 0), (1.0, 10), (7.0, 59), (100.0, 60)] {
        put(&mut store, &value(number, NOW + Duration::seconds(seconds))).unwrap();
    }
    let statistic =
        |statistic| store.statistic(&load(), statistic, None, NOW, NOW + Duration::minutes(1));
    assert_eq!(statistic(Statistic::Average), Some(4.0));
    assert_eq!(statistic(Statistic::Minimum), Some(1.0));
    assert_eq!(statistic(Statistic::Maximum), Some(7.0));
    assert_eq!(statistic(Statistic::Sum), Some(12.0));
    assert_eq!(statistic(Statistic::SampleCount), Some(3.0));
    let later = NOW + Duration::minutes(2);
    assert_eq!(store.statistic(&load(), Statistic::Sum, None, later, later + Duration::DAY), None);
    // Without its dimension, it is another metric; with another unit, the values are others.
    let bare = Metric::new("skep", "Load", &[]);
    assert_eq!(store.statistic(&bare, Statistic::Sum, None, NOW, later), None);
    assert_eq!(store.statistic(&load(), Statistic::Sum, Some("Percent"), NOW, later), None);
    assert_eq!(store.statistic(&load(), Statistic::Sum, Some("None"), NOW, later), Some(112.0));
}

#[test]
fn summaries_and_lists_of_values_count_as_their_values() {
    let mut store = CloudWatch::default();
    let metric = Metric::new("skep", "Load", &[]);
    put(
        &mut store,
        "MetricName=Load&StatisticValues.SampleCount=3&StatisticValues.Sum=9&\
         StatisticValues.Minimum=1&StatisticValues.Maximum=5",
    )
    .unwrap();
    put(
        &mut store,
        "MetricName=Load&Values.member.1=2&Values.member.2=8&Counts.member.1=4&Counts.member.2=0",
    )
    .unwrap();
    let statistic = |it| store.statistic(&metric, it, None, NOW, NOW + Duration::SECOND);
    assert_eq!(statistic(Statistic::SampleCount), Some(7.0));
    assert_eq!(statistic(Statistic::Sum), Some(17.0));
    assert_eq!(statistic(Statistic::Maximum), Some(5.0));
}

#[test]
fn what_aws_refuses_is_refused_and_nothing_is_stored() {
    let dimension = |number: u32| {
        format!("&Dimensions.member.{number}.Name=d{number}&Dimensions.member.{number}.Value=v")
    };
    let many: String = (1..=31).map(dimension).collect();
    let at = |offset: Duration| value(1.0, NOW + offset);
    for (datum, code) in [
        ("Value=1", "MissingParameter"),
        ("MetricName=Load", "MissingParameter"),
        ("MetricName=Load&Value=NaN", "InvalidParameterValue"),
        ("MetricName=Load&Value=inf", "InvalidParameterValue"),
        ("MetricName=Load&Value=1e109", "InvalidParameterValue"),
        ("MetricName=Load&Value=many", "InvalidParameterValue"),
        ("MetricName=Load&Value=1&Unit=Bees", "InvalidParameterValue"),
        ("MetricName=Load&Value=1&Values.member.1=2", "InvalidParameterCombination"),
        ("MetricName=Load&Value=1&StorageResolution=7", "InvalidParameterValue"),
        (&format!("MetricName=Load&Value=1{many}"), "InvalidParameterValue"),
        (
            &format!(
                "MetricName=Load&Value=1{}&Dimensions.member.2.Name=d1&\
                 Dimensions.member.2.Value=v",
                dimension(1)
            ),
            "InvalidParameterValue",
        ),
        (&at(-Duration::days(15)), "InvalidParameterValue"),
        (&at(Duration::minutes(121)), "InvalidParameterValue"),
    ] {
        let mut store = CloudWatch::default();
        assert_eq!(put(&mut store, datum).unwrap_err().code, code, "{datum}");
        assert!(store.metrics.is_empty(), "{datum}");
    }
    let mut store = CloudWatch::default();
    for accepted in [at(-Duration::days(13)), at(Duration::minutes(119))] {
        put(&mut store, &accepted).unwrap();
    }
    let of_aws =
        form("Namespace=AWS/EC2&MetricData.member.1.MetricName=L&MetricData.member.1.Value=1");
    assert_eq!(store.put(&of_aws, NOW).unwrap_err().code, "InvalidParameterValue");
    assert_eq!(store.put(&form("Namespace=skep"), NOW).unwrap_err().code, "MissingParameter");
    // One item that is refused keeps the others out.
    let two = form(
        "Namespace=skep&MetricData.member.1.MetricName=Good&MetricData.member.1.Value=1&\
         MetricData.member.2.MetricName=Bad&MetricData.member.2.Value=nan",
    );
    assert!(store.put(&two, NOW).is_err());
    assert_eq!(store.metrics.len(), 1);
}

#[test]
fn periods_are_read_newest_first_and_start_at_whole_minutes() {
    let mut store = CloudWatch::default();
    for (number, seconds) in [(2.0, 0), (4.0, 20), (9.0, 90)] {
        put(&mut store, &value(number, NOW + Duration::seconds(seconds))).unwrap();
    }
    let query = |more: &str| {
        let of = "MetricDataQueries.member.1.";
        form(&format!(
            "StartTime=2026-11-30T18:00:40Z&EndTime=2026-11-30T19:00:00Z&{of}Id=load&\
             {of}MetricStat.Metric.Namespace=skep&{of}MetricStat.Metric.MetricName=Load&\
             {of}MetricStat.Metric.Dimensions.member.1.Name=Group&\
             {of}MetricStat.Metric.Dimensions.member.1.Value=workers&\
             {of}MetricStat.Period=60&{of}MetricStat.Stat=Average{more}"
        ))
    };
    let result = |input: &Data| {
        let answer = store.get(input).unwrap();
        answer.list_of("MetricDataResults").first().cloned()
    };
    let newest_first = result(&query("")).unwrap();
    assert_eq!(newest_first.list_of("Values"), [Data::Number(9.0), Data::Number(3.0)]);
    let starts = [datetime!(2026-11-30 18:02 UTC), datetime!(2026-11-30 18:00 UTC)];
    assert_eq!(newest_first.list_of("Timestamps"), starts.map(Data::Time));
    let oldest_first = result(&query("&ScanBy=TimestampAscending")).unwrap();
    assert_eq!(oldest_first.list_of("Values"), [Data::Number(3.0), Data::Number(9.0)]);
    assert_eq!(result(&query("&MetricDataQueries.member.1.ReturnData=false")), None);

    let math = "StartTime=2026-11-30T18:00:00Z&EndTime=2026-11-30T19:00:00Z&\
                MetricDataQueries.member.1.Id=a&MetricDataQueries.member.1.Expression=b";
    assert!(store.get(&form(math)).unwrap_err().message.contains("no metric math"));
}

#[test]
fn metrics_are_listed_by_name_and_dimension() {
    let mut store = CloudWatch::default();
    put(&mut store, &value(1.0, NOW)).unwrap();
    put(&mut store, "MetricName=Nodes&Value=3").unwrap();
    let listed = |filter: &str| store.list(&form(filter)).unwrap().list_of("Metrics").len();
    assert_eq!(listed("Namespace=skep"), 2);
    assert_eq!(listed("MetricName=Nodes"), 1);
    assert_eq!(listed("Dimensions.member.1.Name=Group"), 1);
    let other = "Dimensions.member.1.Name=Group&Dimensions.member.1.Value=managers";
    assert_eq!(listed(other), 0);
}

#[test]
fn a_name_with_endless_parts_is_skipped() {
    let deep = "a.".repeat(100_000);
    let data = form(&format!("Namespace=skep&{deep}b=1"));
    assert_eq!(data.text_of("Namespace"), Some("skep"));
    assert!(data.get("a").is_none());
}
