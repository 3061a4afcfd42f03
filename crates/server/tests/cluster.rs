//! Three durable nodes over real TCP, driven through gRPC as a client would.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::Bytes;
use common::{Cluster, DEADLINE, bytes, delete, get, put, stop_all};
use quorate::RaftMetrics;
use quorate_server::mvcc::MAX_REQUEST_BYTES;
use quorate_server::node::NodeError;
use quorate_server::proto::request_op::Request as Op;
use quorate_server::proto::response_op::Response as OpResponse;
use quorate_server::proto::{
    AlarmRequest, CompactionRequest, Compare, CompareResult, CompareTarget, MemberListRequest, PutRequest,
    RangeRequest, RequestOp, StatusRequest, TargetUnion, TxnRequest,
};
use tonic::{Code, Request, Status};

fn code_and_text<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.unwrap_err();
    (status.code(), status.message().to_owned())
}

fn op(request: Op) -> RequestOp {
    RequestOp { request: Some(request) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_puts_gets_deletes_and_transacts_through_any_node() {
    let cluster = Cluster::new("everyday", 3);
    let nodes = cluster.start_all().await;

    let mut revision = 1;
    for at in 0..3 {
        let mut kv = cluster.kv(at);
        let value = format!("v{at}");
        let header = kv.put(put("a", &value)).await.unwrap().into_inner().header.unwrap();
        revision += 1;
        assert_eq!(header.revision, revision, "every write is one revision, whoever takes it");
        assert_eq!(header.member_id, cluster.options[at].id);
        let cluster_id = nodes[0].raft().cluster_id().0 as u64;
        assert!(cluster_id != 0);
        assert_eq!(header.cluster_id, cluster_id);
        assert!(header.raft_term > 0);
        for reader in 0..3 {
            let response = cluster.kv(reader).range(get("a")).await.unwrap().into_inner();
            assert_eq!(response.kvs[0].value, value, "a linearizable read anywhere sees it at once");
            assert_eq!((response.kvs[0].create_revision, response.kvs[0].version), (2, revision - 1));
        }
    }

    let mut kv = cluster.kv(1);
    let txn = TxnRequest {
        compare: vec![Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Value as i32,
            key: bytes("a"),
            target_union: Some(TargetUnion::Value(bytes("v2"))),
            range_end: Bytes::new(),
        }],
        success: vec![op(Op::Put(put("b", "x"))), op(Op::Range(get("b")))],
        failure: vec![],
    };
    let response = kv.txn(txn).await.unwrap().into_inner();
    assert!(response.succeeded);
    assert_eq!(response.header.unwrap().revision, 5);
    let Some(OpResponse::Range(range)) = &response.responses[1].response else { panic!("{response:?}") };
    assert_eq!(range.kvs[0].mod_revision, 5);

    let reading = TxnRequest { success: vec![op(Op::Range(get("b")))], ..Default::default() };
    let before = nodes[0].raft().metrics().borrow().last_log_id;
    assert!(kv.txn(reading).await.unwrap().into_inner().succeeded);
    let after = nodes[0].raft().metrics().borrow().last_log_id;
    assert!(after == before || after.leader_id != before.leader_id, "reading needs no log entry: {before} {after}");

    let deleted = kv.delete_range(delete("a")).await.unwrap().into_inner();
    assert_eq!((deleted.deleted, deleted.header.unwrap().revision), (1, 6));
    assert!(kv.range(get("a")).await.unwrap().into_inner().kvs.is_empty());
    let past = RangeRequest { revision: 4, ..get("a") };
    assert_eq!(kv.range(past.clone()).await.unwrap().into_inner().kvs[0].value, "v2");

    kv.compact(CompactionRequest { revision: 6, physical: true }).await.unwrap();
    assert_eq!(
        code_and_text(kv.range(past).await),
        (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted".into())
    );
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_etcds_codes_and_texts() {
    let cluster = Cluster::new("refusals", 1);
    let nodes = cluster.start_all().await;
    let mut kv = cluster.kv(0);
    let invalid = |text: &str| (Code::InvalidArgument, text.to_owned());

    assert_eq!(code_and_text(kv.put(put("", "x")).await), invalid("etcdserver: key is not provided"));
    assert_eq!(code_and_text(kv.range(get("")).await), invalid("etcdserver: key is not provided"));
    assert_eq!(code_and_text(kv.delete_range(delete("")).await), invalid("etcdserver: key is not provided"));
    let keep = PutRequest { ignore_value: true, ..put("none", "") };
    assert_eq!(code_and_text(kv.put(keep).await), invalid("etcdserver: key not found"));
    let leased = PutRequest { lease: 5, ..put("a", "") };
    assert_eq!(code_and_text(kv.put(leased).await), (Code::NotFound, "etcdserver: requested lease not found".into()));
    let twice =
        TxnRequest { success: vec![op(Op::Put(put("a", ""))), op(Op::Put(put("a", "")))], ..Default::default() };
    assert_eq!(code_and_text(kv.txn(twice).await), invalid("etcdserver: duplicate key given in txn request"));
    let many = TxnRequest { success: vec![op(Op::Range(get("a"))); 129], ..Default::default() };
    assert_eq!(code_and_text(kv.txn(many).await), invalid("etcdserver: too many operations in txn request"));
    let future = RangeRequest { revision: 99, ..get("a") };
    let text = "etcdserver: mvcc: required revision is a future revision".to_owned();
    assert_eq!(code_and_text(kv.range(future).await), (Code::OutOfRange, text.clone()));
    let future = CompactionRequest { revision: 99, physical: false };
    assert_eq!(code_and_text(kv.compact(future).await), (Code::OutOfRange, text));
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_over_the_limit_is_refused_and_one_at_the_limit_taken() {
    let cluster = Cluster::new("large", 3);
    let nodes = cluster.start_all().await;
    let mut kv = cluster.kv(0);
    let put_of = |bytes: usize| PutRequest { value: Bytes::from(vec![7; bytes]), ..put("large", "") };
    for over in [MAX_REQUEST_BYTES, 4 << 20] {
        assert_eq!(
            code_and_text(kv.put(put_of(over)).await),
            (Code::InvalidArgument, "etcdserver: request is too large".into())
        );
    }
    let far_over = kv.put(put_of(9 << 20)).await.unwrap_err();
    assert_eq!(far_over.code(), Code::OutOfRange, "not even read: {far_over:?}");

    kv.put(put_of(MAX_REQUEST_BYTES - 64)).await.unwrap();
    let response = cluster.kv(2).range(get("large")).await.unwrap().into_inner();
    assert_eq!(response.kvs[0].value.len(), MAX_REQUEST_BYTES - 64);
    assert_eq!(response.header.unwrap().revision, 2, "what was refused made no revision");
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_and_status_tell_names_addresses_and_the_leader() {
    let cluster = Cluster::new("members", 3);
    let nodes = cluster.start_all().await;
    let asked = MemberListRequest { linearizable: true };
    let response = cluster.members(2).member_list(asked).await.unwrap().into_inner();
    let mut names: Vec<&str> = response.members.iter().map(|member| member.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["n1", "n2", "n3"]);
    for options in &cluster.options {
        let member = response.members.iter().find(|member| member.id == options.id).unwrap();
        assert_eq!(member.client_urls, options.client_urls);
        assert_eq!(member.peer_urls, [options.listen_peers.url()]);
        assert!(!member.is_learner);
    }

    cluster.kv(0).put(put("a", "1")).await.unwrap();
    let mut leaders = Vec::new();
    for at in 0..3 {
        cluster.kv(at).range(get("a")).await.unwrap(); // linearizable: this node has caught up
        let status = cluster.maintenance(at).status(StatusRequest {}).await.unwrap().into_inner();
        assert!(status.errors.is_empty(), "{:?}", status.errors);
        assert!(status.version.starts_with("3.5.0+quorate."));
        assert_eq!((status.db_size, status.db_size_in_use), (2, 2));
        assert!(status.raft_applied_index > 0 && status.raft_index >= status.raft_applied_index);
        assert_eq!(status.header.unwrap().revision, 2);
        leaders.push(status.leader);
    }
    assert!(cluster.options.iter().any(|options| options.id == leaders[0]));
    assert_eq!((leaders[0], leaders[0]), (leaders[1], leaders[2]));
    let alarms = cluster.maintenance(0).alarm(AlarmRequest::default()).await.unwrap().into_inner();
    assert!(alarms.alarms.is_empty());
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_served_says_so() {
    let cluster = Cluster::new("unserved", 1);
    let nodes = cluster.start_all().await;
    for path in [
        "/etcdserverpb.Cluster/MemberAdd",
        "/etcdserverpb.Maintenance/Defragment",
        "/etcdserverpb.Watch/Watch",
        "/etcdserverpb.Lease/LeaseGrant",
        "/etcdserverpb.Auth/AuthEnable",
    ] {
        let mut grpc = tonic::client::Grpc::new(cluster.channel(0));
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<StatusRequest, StatusRequest>::default();
        let result = grpc.unary(Request::new(StatusRequest {}), path.parse().unwrap(), codec).await;
        let text = format!("quorate: {path} is not served by this version");
        assert_eq!(code_and_text(result), (Code::Unimplemented, text));
    }
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_cluster_has_its_data_its_history_and_its_identity() {
    let cluster = Cluster::new("restart", 3);
    let nodes = cluster.start_all().await;
    let mut kv = cluster.kv(0);
    for n in 0..50 {
        kv.put(put(&format!("key{n}"), "1")).await.unwrap();
    }
    kv.put(put("key0", "2")).await.unwrap();
    let before = kv.range(RangeRequest { range_end: bytes("\0"), ..get("\0") }).await.unwrap().into_inner();
    stop_all(nodes).await;

    let nodes = cluster.start_all().await;
    let mut kv = cluster.kv(1);
    let after = kv.range(RangeRequest { range_end: bytes("\0"), ..get("\0") }).await.unwrap().into_inner();
    assert_eq!(after.kvs, before.kvs);
    assert_eq!(after.header.unwrap().revision, before.header.unwrap().revision);
    let old = kv.range(RangeRequest { revision: 2, ..get("key0") }).await.unwrap().into_inner();
    assert_eq!(old.kvs[0].value, "1");
    let put = kv.put(put("key0", "3")).await.unwrap().into_inner();
    assert_eq!(put.header.unwrap().revision, before.header.unwrap().revision + 1);
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_down_is_no_outage_and_a_lone_one_serves_only_stale_reads() {
    let cluster = Cluster::new("outage", 3);
    let mut nodes = cluster.start_all().await;
    cluster.kv(0).put(put("a", "1")).await.unwrap();
    for at in 0..3 {
        cluster.kv(at).range(get("a")).await.unwrap();
    }
    let gone = nodes.pop().unwrap();
    let gone_id = gone.raft().node_id();
    gone.shutdown().await;
    let other_leads = |id| move |now: &RaftMetrics| now.current_leader.is_some_and(|leader| leader != id);
    nodes[0].raft().wait(DEADLINE).metrics(other_leads(gone_id), "another leader").await.unwrap();
    cluster.kv(0).put(put("a", "2")).await.unwrap();
    cluster.kv(1).range(get("a")).await.unwrap();
    nodes.pop().unwrap().shutdown().await;

    let lone = &nodes[0];
    lone.raft().wait(DEADLINE).metrics(|now| now.current_leader.is_none(), "it to lose its leader").await.unwrap();
    let mut kv = cluster.kv(0);
    let stale = RangeRequest { serializable: true, ..get("a") };
    assert_eq!(kv.range(stale).await.unwrap().into_inner().kvs[0].value, "2");
    let mut asking = Request::new(put("a", "3"));
    asking.metadata_mut().insert("hasleader", "true".parse().unwrap());
    assert_eq!(code_and_text(kv.put(asking).await), (Code::Unavailable, "etcdserver: no leader".into()));
    assert_eq!(kv.range(get("a")).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(kv.put(put("a", "3")).await.unwrap_err().code(), Code::Unavailable);
    let status = cluster.maintenance(0).status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.leader, 0);
    assert!(status.errors.contains(&"etcdserver: no leader".to_owned()), "{:?}", status.errors);
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_client_port_is_named_before_anything_is_written() {
    let cluster = Cluster::new("taken", 1);
    let address = cluster.options[0].listen_clients[0].to_string();
    let _holder = std::net::TcpListener::bind(&address).unwrap();
    let error = cluster.try_start(0).await.unwrap_err();
    assert!(matches!(error, NodeError::ListenClients { .. }));
    assert!(error.to_string().contains(&address), "{error}");
    assert!(!cluster.options[0].data_dir.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_peer_port_and_the_client_port_harms_nobody() {
    let cluster = Cluster::new("garbage", 3);
    let nodes = cluster.start_all().await;
    let garbage = |seed: u8, len: usize| -> Vec<u8> {
        let mut state = u32::from(seed) + 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(|_| next()).collect()
    };
    for options in &cluster.options {
        for address in [&options.listen_peers, &options.listen_clients[0]] {
            for (seed, len) in [(1, 1), (2, 64), (3, 100_000)] {
                let mut stream = TcpStream::connect(address.to_string()).unwrap();
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                // The node may close while we write: that is an answer too.
                let _ = stream.write_all(&garbage(seed, len));
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer);
            }
            let mut stream = TcpStream::connect(address.to_string()).unwrap();
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        }
    }
    cluster.kv(0).put(put("a", "1")).await.unwrap();
    for (at, node) in nodes.iter().enumerate() {
        assert_eq!(cluster.kv(at).range(get("a")).await.unwrap().into_inner().kvs[0].value, "1");
        assert_eq!(node.raft().metrics().borrow().closed, None);
    }
    stop_all(nodes).await;
}
